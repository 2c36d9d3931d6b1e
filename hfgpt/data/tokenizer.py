"""The tokenizer: byte-level BPE trained on the recipe's own text, or an existing one given the chat tokens.

Everything here returns a `PreTrainedTokenizerFast`, whose saved folder any HuggingFace tool reads without hfgpt.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfgpt.errors import UserError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

logger = logging.getLogger(__name__)

BOS, PAD, END = "<|bos|>", "<|pad|>", "<|end|>"
SPECIAL_TOKENS = (BOS, PAD, "<|system|>", "<|user|>", "<|assistant|>", END, "<|tool|>", "<|python|>", "<|output|>")

# Names under which transformers saves a tokenizer that is all in its tokenizer.json.
GENERIC_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")

# GPT-4's split pattern (cl100k_base in tiktoken's openai_public.py) with nanochat's one change, digits in groups of
# at most two: a vocabulary of 32k has no room for all thousand groups of three.
SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)

# The template writes BOS itself, and apply_chat_template tokenizes with add_special_tokens=False, so that chats too
# start with exactly one.
CHAT_TEMPLATE = (files("hfgpt.data") / "chat_template.jinja").read_text(encoding="utf-8")
_TAKEN_APART = re.compile(r"(?<=set taken_apart = )\{.*?\}", re.DOTALL)


def chat_template_for(special_tokens: Iterable[str]) -> str:
    """Our chat template for a tokenizer that has these special tokens beside ours: in what anyone says each of them
    is taken apart, as "<|end|>" into "<| end |>", so that text never becomes a special token."""
    return with_tokens_taken_apart(CHAT_TEMPLATE, {*special_tokens, *SPECIAL_TOKENS})


def with_tokens_taken_apart(template: str, special_tokens: Iterable[str]) -> str:
    """The template with these tokens in its table `taken_apart`, each with what stands for it in plain text."""
    # The spaces put in can make no other token; a longer one comes first, as its pieces may hold a shorter one.
    tokens = sorted(special_tokens, key=lambda token: (-len(token), token))
    pieces = {token: _taken_apart(token) for token in tokens}
    return _TAKEN_APART.sub(lambda _: json.dumps(pieces, indent=4, ensure_ascii=False), template)


def _taken_apart(token: str) -> str:
    """The token with spaces between its brackets and its name, or in the middle where it has no brackets."""
    match = re.fullmatch(r"(\W*)(.*?)(\W*)", token, re.DOTALL)
    assert match is not None
    pieces = [piece for piece in match.groups() if piece]
    return " ".join(pieces if len(pieces) > 1 else [token[: len(token) // 2], token[len(token) // 2 :]])


def well_formed(text: str) -> str:
    """`text` as UTF-8 can hold it: surrogate pairs joined, each lone surrogate (JSON's \\ud800) replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def texts_for_training(documents: Iterable[str], max_train_bytes: int, max_bytes_per_document: int) -> Iterator[str]:
    """The start of each document, at most `max_bytes_per_document` bytes, until `max_train_bytes` bytes are read."""
    remaining = max_train_bytes
    for document in documents:
        # One character is at least one byte: the slice keeps a huge document from being encoded whole.
        raw = well_formed(document[:max_bytes_per_document]).encode()[: min(max_bytes_per_document, remaining)]
        remaining -= len(raw)
        yield raw.decode(errors="ignore")
        if remaining == 0:
            return


def bpe_that_splits_by(split_pattern: str, model: BPE | None = None) -> Tokenizer:
    """Byte-level BPE over the pieces that the regular expression cuts a text into; without a `model`, untrained."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    backend = Tokenizer(model or models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split_pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train byte-level BPE (Sennrich et al. 2016; on bytes as GPT-2) with `vocab_size` tokens, special ones included.

    Text too small to fill the vocabulary gives a smaller one, with a warning: a model takes its size from
    `len(tokenizer)`. The same texts give the same tokenizer. Raises UserError for a size that cannot hold the 256
    bytes and the special tokens, and where `texts` holds no text.
    """
    from tokenizers import pre_tokenizers, trainers

    smallest = 256 + len(SPECIAL_TOKENS)
    if vocab_size < smallest:
        raise UserError(
            f"tokenizer.vocab_size is {vocab_size}, but the 256 bytes and {len(SPECIAL_TOKENS)} special tokens "
            f"alone need {smallest}: set it to at least {smallest}, as 4096 or 32768."
        )
    backend = bpe_that_splits_by(SPLIT_PATTERN)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,  # a pair seen once says nothing about other text
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    characters = 0

    def counted() -> Iterator[str]:
        nonlocal characters
        for text in texts:
            characters += len(text)
            yield well_formed(text)

    backend.train_from_iterator(counted(), trainer)
    if characters == 0:
        raise UserError("The tokenizer has no text to train on: check that data names documents that are not empty.")
    if backend.get_vocab_size() < vocab_size:
        logger.warning(
            "tokenizer.vocab_size is %d, but %d characters of text have pairs for %d tokens only: the tokenizer, and "
            "the model with it, has %d. Train on more text, or set vocab_size to that.",
            vocab_size,
            characters,
            backend.get_vocab_size(),
            backend.get_vocab_size(),
        )
    return _with_chat_format(backend)


def load_tokenizer(
    name_or_path: str | Path, add_chat_tokens: bool = True, tell: Callable[[str], None] = logger.warning
) -> PreTrainedTokenizerFast:
    """An existing tokenizer: a saved folder, a folder with GPT-2's vocab.json and merges.txt, or a Hub id.

    With `add_chat_tokens` it gets the special tokens that it lacks (appended, as Phi-3 did to Llama's), our chat
    template, one BOS in front of every text, and pad, bos and end as three different tokens; without, it stays
    exactly as it is. `tell` gets a sentence where this replaces a chat template of its own. Raises UserError where
    there is no such tokenizer, or it has no fast version.
    """
    tokenizer = _existing_tokenizer(str(name_or_path))
    if not add_chat_tokens:
        return tokenizer
    with_ours = _with_chat_format(tokenizer.backend_tokenizer, tokenizer.extra_special_tokens)
    if tokenizer.chat_template not in (None, with_ours.chat_template):
        tell(
            f"The chat template of {name_or_path} is replaced by hfgpt's, whose format the model has yet to learn; "
            "tokenizer.add_chat_tokens: false keeps its own."
        )
    return with_ours


def _existing_tokenizer(name_or_path: str) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, GPT2Tokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    from hfgpt.model.downloads import over_a_bad_line

    folder = Path(name_or_path).expanduser()
    is_path = folder.exists() or name_or_path.startswith((".", "/", "~")) or name_or_path.count("/") > 1
    files = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    described = files & {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"}
    bare_gpt2 = not described and files >= {"vocab.json", "merges.txt"}
    if is_path and not folder.is_dir():
        raise UserError(f"tokenizer.name_or_path: there is no folder {name_or_path}.")
    if is_path and not described and not bare_gpt2:
        raise UserError(
            f"The folder {name_or_path} holds no tokenizer: it lacks tokenizer.json, or vocab.json and merges.txt."
        )
    source = str(folder) if is_path else name_or_path

    def read() -> PreTrainedTokenizerBase:
        if bare_gpt2:
            return GPT2Tokenizer.from_pretrained(source)
        if get_tokenizer_config(source).get("tokenizer_class") in GENERIC_CLASSES:
            # AutoTokenizer would look at a model's config beside it, and ask about the code that comes with it.
            return PreTrainedTokenizerFast.from_pretrained(source)
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)

    try:
        tokenizer = over_a_bad_line(f"The tokenizer {name_or_path}", read)
    except UserError:
        raise
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        reason = str(error).strip().split("\n")[0]
        raise UserError(
            f"The tokenizer {name_or_path} could not be loaded ({reason}): give a folder that holds tokenizer.json, "
            "or a Hub id as openai-community/gpt2."
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"The tokenizer {name_or_path} has no fast version (tokenizer.json): name one that has.")
    return tokenizer


def _with_chat_format(backend: Tokenizer, extra_special_tokens: Iterable = ()) -> PreTrainedTokenizerFast:
    """A tokenizer of our chat format around a copy of `backend`; tokens that it has already keep their ids."""
    from tokenizers import AddedToken, Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(backend.to_str())
    backend.no_truncation()
    backend.no_padding()
    backend.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL_TOKENS])
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B:1", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    others = [token for token in SPECIAL_TOKENS if token not in (BOS, PAD, END)]
    all_special = [token.content for token in backend.get_added_tokens_decoder().values() if token.special]
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        pad_token=PAD,
        eos_token=END,
        extra_special_tokens=others + [token for token in extra_special_tokens if str(token) not in SPECIAL_TOKENS],
        chat_template=chat_template_for(all_special),
        clean_up_tokenization_spaces=False,
        padding_side="left",  # what batched generation needs; training collators pad by themselves
    )


def tokenizer_statistics(tokenizer: PreTrainedTokenizerFast, texts: Iterable[str]) -> dict[str, int | float]:
    """How `tokenizer` does on `texts`, without BOS and with special tokens read as text.

    `vocab_size`, `documents`, `bytes` (UTF-8), `tokens`, `bytes_per_token`, `round_trip_exact` (share of documents
    that decode to themselves, byte for byte) and `vocabulary_used` (share of the vocabulary seen at least once).
    Raises UserError where there is no text.
    """
    documents = text_bytes = tokens = exact = 0
    used: set[int] = set()
    for text in texts:
        text = well_formed(text)
        ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        documents += 1
        text_bytes += len(text.encode())
        tokens += len(ids)
        exact += tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) == text
        used.update(ids)
    if text_bytes == 0:
        raise UserError("There is no text to measure the tokenizer on: check that data names documents with text.")
    return {
        "vocab_size": len(tokenizer),
        "documents": documents,
        "bytes": text_bytes,
        "tokens": tokens,
        "bytes_per_token": text_bytes / tokens,
        "round_trip_exact": exact / documents,
        "vocabulary_used": len(used) / len(tokenizer),
    }


def compare_tokenizers(tokenizers: Mapping[str, PreTrainedTokenizerFast], texts: Sequence[str]) -> list[dict]:
    """The rows of `hfgpt tokenizer stats`: each tokenizer's name (`tokenizer`) and statistics on the same texts, and
    `relative_tokens`, its tokens per token of the first one."""
    rows: list[dict[str, Any]] = [
        {"tokenizer": name} | tokenizer_statistics(tokenizer, texts) for name, tokenizer in tokenizers.items()
    ]
    return [row | {"relative_tokens": row["tokens"] / rows[0]["tokens"]} for row in rows]


def token_byte_lengths(tokenizer: PreTrainedTokenizerFast) -> np.ndarray:
    """UTF-8 bytes that each token stands for, `(len(tokenizer),)` int64; 0 for special tokens.

    Over the ids of a text they add up to its bytes, which is what bits per byte divides by. Raises UserError for
    tokenizers whose tokens are not pieces of the text (WordPiece drops spaces).
    """
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    decoder = state["decoder"] or {"type": None}
    decoders = {decoder["type"], *(part["type"] for part in decoder.get("decoders", []))}
    if not decoders & {"ByteLevel", "ByteFallback"}:
        raise UserError(
            "The tokenizer is neither byte-level nor SentencePiece with byte fallback, so bits per byte cannot be "
            "counted: use one that is, as openai-community/gpt2."
        )
    added = {token["id"]: token for token in state["added_tokens"]}
    lengths = np.zeros(len(tokenizer), dtype=np.int64)
    for token, token_id in tokenizer.get_vocab().items():
        if token_id in added:
            lengths[token_id] = 0 if added[token_id]["special"] else len(token.encode())
        elif "ByteLevel" in decoders:
            lengths[token_id] = len(token)  # one character stands for one byte
        else:
            is_byte = re.fullmatch(r"<0x[0-9A-F]{2}>", token)
            lengths[token_id] = 1 if is_byte else len(token.replace("\u2581", " ").encode())
    return lengths
