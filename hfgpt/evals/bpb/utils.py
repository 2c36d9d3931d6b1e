"""Documents of the task bpb, cut into pieces that the model sees whole, and what they cost. Every character is in
exactly one piece; the names of special tokens in a text are in none."""

import re
from collections.abc import Iterator
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hfgpt.arguments import DataArguments
from hfgpt.data.documents import source_shards
from hfgpt.errors import UserError
from hfgpt.evals.core.model_tokens import model_tokens

# A piece ends before a blank among its last tokens where there is one: then the next begins as a word does in a text.
TOKENS_LOOKED_BACK = 32
CHARS_PER_TOKEN = 8  # read for each token that a piece may have: English has four or five


def documents(bpb_text: list[str] | str | None = None, **of_model: Any) -> dict[str, Dataset]:
    """The documents of the files `bpb_text`, as training reads `data.data_path`. Raises UserError for files that
    cannot be read, and where there is no text in them."""
    if not bpb_text:
        raise UserError("bpb needs a text to measure: name files by --bpb_text FILE ..., or bpb_text in --metadata.")
    tokens = model_tokens(of_model)
    rows = []
    for shard in source_shards(DataArguments(data_path=bpb_text)):
        for document in shard.documents():
            cut = list(pieces(document, tokens.tokenizer, tokens.max_length))
            if cut:
                rows.append({"pieces": cut, "bytes": sum(len(piece.encode()) for piece in cut)})
    if not rows:
        raise UserError(f"bpb_text: there is no text in {bpb_text}.")
    return {"test": Dataset.from_list(rows)}


def losses(doc: dict, results: list[tuple[float, bool]]) -> dict[str, tuple[float, int]]:
    """Log-probability in nats and UTF-8 bytes, which lm-eval's aggregation divides over all documents."""
    return {"bits_per_byte": (sum(log_probability for log_probability, _ in results), doc["bytes"])}


def pieces(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Iterator[str]:
    """`text` in pieces of at most `max_length` tokens, cut between characters, and at the names of special tokens."""
    names = "|".join(re.escape(name) for name in sorted(tokenizer.all_special_tokens, key=len, reverse=True))
    for part in re.split(names, text) if names else [text]:
        start = 0
        while start < len(part):
            read = part[start : start + CHARS_PER_TOKEN * max_length]
            end = _end_of_piece(read, tokenizer, max_length)
            yield read[:end]
            start += end


def _end_of_piece(text: str, tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """Characters of the first piece of `text`, at least one."""
    ends = _token_ends(text, tokenizer)
    if len(ends) <= max_length:
        return len(text)
    room = max_length
    while room > 1:
        whole = [end for end, after in zip(ends[:room], ends[1 : room + 1], strict=True) if end < after]
        if not whole:
            break
        near = [end for end in whole[-TOKENS_LOOKED_BACK:] if text[end].isspace()]
        end = near[-1] if near else whole[-1]
        if (excess := len(_token_ends(text[:end], tokenizer)) - max_length) <= 0:
            return end
        room -= excess  # cut off, the text has other tokens
    return 1


def _token_ends(text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Where in `text` each of its tokens ends, in characters."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return [end for _, end in encoded["offset_mapping"]]
