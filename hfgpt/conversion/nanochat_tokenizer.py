"""nanochat's tokenizer.pkl, a pickled tiktoken.Encoding, as a tokenizer of transformers. Nothing that a pickle could
name is run: the one class that it may hold is read as a plain table."""

import pickle
from importlib.resources import files
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, processors
from transformers import PreTrainedTokenizerFast

from hfgpt.data.bpe_translation import byte_of_character
from hfgpt.data.tokenizer import bpe_that_splits_by, with_tokens_taken_apart
from hfgpt.errors import UserError

BOS, END = "<|bos|>", "<|assistant_end|>"
# nanochat has no token of its own for padding, and an import adds none. This one is rarest in conversations, and no
# answer has to learn it: what python puts out is given to the model.
PAD = "<|output_end|>"
CHAT_TEMPLATE = (files("hfgpt.conversion") / "nanochat_template.jinja").read_text(encoding="utf-8")


class Encoding:
    """Stands for tiktoken.Encoding while one is read: its state, and no behaviour."""

    state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


class EncodingUnpickler(pickle.Unpickler):
    """Reads an Encoding and refuses every other name, so that nothing in the file can be called
    (https://docs.python.org/3/library/pickle.html#restricting-globals)."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("tiktoken.core", "Encoding"):
            return Encoding
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def read_tokenizer(path: Path, vocab_size: int) -> PreTrainedTokenizerFast:
    """nanochat's tokenizer with the ids that it has there, its chat format as a template, one BOS before a text, and
    a pad that is neither BOS nor the end of a turn.

    Raises UserError for a file that is something else, or has another number of tokens than the model.
    """
    encoding = _read_encoding(path)
    try:
        pattern: str = encoding["pat_str"]
        ranks: dict[bytes, int] = encoding["mergeable_ranks"]
        special: dict[str, int] = encoding["special_tokens"]
        backend = _backend(pattern, ranks, special)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path} holds no encoding of tiktoken ({error!r}): name a tokenizer by --tokenizer."
        ) from None
    if backend.get_vocab_size() != vocab_size:
        raise UserError(
            f"{path} has {backend.get_vocab_size():,} tokens but the model {vocab_size:,}: it is another model's; "
            "name the right one by --tokenizer."
        )
    if any(backend.token_to_id(token) != token_id for token, token_id in special.items()) or BOS not in special:
        raise UserError(f"{path} has special tokens that are not nanochat's: name a tokenizer by --tokenizer.")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=END if END in special else BOS,
        pad_token=PAD if PAD in special else None,
        extra_special_tokens=[token for token in special if token not in (BOS, END, PAD)],
        chat_template=with_tokens_taken_apart(CHAT_TEMPLATE, special) if END in special else None,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def merges_of(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """The merges by which tiktoken makes its tokens, first rank first: of each token the two parts that its bytes are
    in just before the last merge. A token without such parts is only ever taken whole, as `ignore_merges` does."""
    merges = []
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__):
        parts = [bytes([byte]) for byte in token]
        while len(parts) > 2:
            joined = [ranks.get(left + right, len(ranks)) for left, right in zip(parts, parts[1:], strict=False)]
            first = joined.index(min(joined))
            if joined[first] == len(ranks):
                break
            parts[first : first + 2] = [parts[first] + parts[first + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def _backend(pattern: str, ranks: dict[bytes, int], special: dict[str, int]) -> Tokenizer:
    character_of_byte = {byte: character for character, byte in byte_of_character().items()}

    def written(token: bytes) -> str:
        return "".join(character_of_byte[byte] for byte in token)

    vocabulary = {written(token): rank for token, rank in ranks.items()}
    merges = [(written(left), written(right)) for left, right in merges_of(ranks)]
    backend = bpe_that_splits_by(pattern, models.BPE(vocabulary, merges, ignore_merges=True))
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in sorted(special, key=special.__getitem__)]
    )
    if BOS in special:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, special[BOS])]
        )
    return backend


def _read_encoding(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            encoding = EncodingUnpickler(file).load()
    except OSError:
        raise
    except Exception as error:  # a file that is no pickle fails in many ways
        raise UserError(f"{path} is no tokenizer of nanochat ({error}): name one by --tokenizer.") from None
    state = encoding.state if isinstance(encoding, Encoding) else None
    if isinstance(state, str):
        raise UserError(f"{path} says no more than the name {state}: name that tokenizer by --tokenizer.")
    if not isinstance(state, dict):
        raise UserError(f"{path} is no tokenizer of nanochat: name one by --tokenizer.")
    return state
