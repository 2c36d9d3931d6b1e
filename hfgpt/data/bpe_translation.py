"""A byte-level BPE of `tokenizers` said in tiktoken's terms, with the argument why both give the same ids.

tokenizers merges the adjacent PAIR of least rank, leftmost first; tiktoken merges the adjacent parts whose JOINED
BYTES have the least rank, leftmost first. Call a token reachable if tokenizers, given the token's bytes alone, ends
in that one token. Then:
- No unreachable token is ever produced: were it to appear in a longer text, no merge had crossed its borders, so
  those inside it ran as they do on its bytes alone, which never end there.
- A reachable token is only ever made by the last merge of its own run: two parts spanning its bytes, with no merge
  across the borders, are a state of that run, and the run has one state of two parts.
So tiktoken over the reachable tokens alone, each ranked by its own last merge, takes the same steps, whatever else the
merge list holds (a token made by several merges, merges that never fire). Ids are looked up afterwards.
"""

import functools
import json
import re
from dataclasses import dataclass

import numpy as np
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import Split

# What ByteLevel(use_regex=True) splits by: GPT-2's own pattern (encoder.py of openai/gpt-2).
GPT2_SPLIT_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


class NotExpressible(ValueError):
    """tiktoken has no way to say this tokenizer; the message says which part of it stands in the way."""


@dataclass(frozen=True)
class TiktokenForm:
    """`pattern` splits text into pieces; `tokens[rank]` are a token's bytes and `ids[rank]` its id."""

    pattern: str
    tokens: list[bytes]
    ids: np.ndarray


def byte_of_character() -> dict[str, int]:
    """ByteLevel's alphabet: the character that stands for each byte in a vocabulary (GPT-2's bytes_to_unicode)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def tiktoken_form(backend: Tokenizer) -> TiktokenForm:
    """The same encoder for tiktoken. Raises NotExpressible where there is none."""
    state = json.loads(backend.to_str())
    if state["normalizer"] is not None:
        raise NotExpressible(f"its normalizer {state['normalizer']['type']}")
    pattern = _translated(_split_pattern(state["pre_tokenizer"]))
    model = state["model"]
    if model["type"] != "BPE":
        raise NotExpressible(f"its model {model['type']}")
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model[key]:
            raise NotExpressible(f"its {key} {model[key]!r}")
    tokens = _ranked_tokens(model)
    alphabet = byte_of_character()
    ids = np.array([model["vocab"][token] for token in tokens], dtype=np.uint32)
    return TiktokenForm(pattern, [bytes(alphabet[character] for character in token) for token in tokens], ids)


def _split_pattern(pre_tokenizer: dict | None) -> str:
    """The one regular expression by which the pre-tokenizer splits."""
    match pre_tokenizer:
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}:
            return GPT2_SPLIT_PATTERN
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
            ],
        }:
            return pattern
    raise NotExpressible("its pre-tokenizer, which is not one split by a pattern followed by bytes")


def _ranked_tokens(model: dict) -> list[str]:
    """The 256 bytes, then the reachable tokens in the order in which their last merges are ranked."""
    vocab: dict[str, int] = model["vocab"]
    rank_of_pair = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    alphabet = byte_of_character()
    if not vocab.keys() >= alphabet.keys():
        raise NotExpressible("its vocabulary, which lacks single bytes")
    ranks_of_token: dict[str, list[int]] = {}
    for (left, right), rank in rank_of_pair.items():
        ranks_of_token.setdefault(left + right, []).append(rank)

    merges_alone = BPE(vocab, list(rank_of_pair))
    reachable: dict[str, int] = {}
    whole_words: list[str] = []
    for token in vocab:
        if len(token) == 1 or not alphabet.keys() >= set(token):
            continue
        parts = len(merges_alone.tokenize(token))
        if parts == 1:
            ranks = ranks_of_token[token]
            reachable[token] = ranks[0] if len(ranks) == 1 else _last_merge(token, rank_of_pair)
        elif model["ignore_merges"]:
            # Taken when it is a whole piece and never within one, which tiktoken copies unless two parts can join.
            if parts == 2:
                raise NotExpressible(f"its token {token!r}, taken for a whole word and never made by merges")
            whole_words.append(token)
    return [*alphabet, *sorted(reachable, key=reachable.__getitem__), *whole_words]


def _last_merge(token: str, rank_of_pair: dict[tuple[str, str], int]) -> int:
    """Rank of the merge that completes a reachable token which several merges could make."""
    parts = list(token)
    while True:
        ranks = [rank_of_pair.get(pair, len(rank_of_pair)) for pair in zip(parts, parts[1:], strict=False)]
        least = min(ranks)
        if len(parts) == 2:
            return least
        first = ranks.index(least)
        parts[first : first + 2] = [parts[first] + parts[first + 1]]


# One item of a pattern. What both engines read alike is copied, character classes are spelled out, the rest refused:
# in tokenizers' engine (Oniguruma, Ruby syntax) ^ and $ are about lines, {1,3}+ repeats, (?i) reaches over |.
_PATTERN_ITEM = re.compile(
    r"(?P<refused>\(\?[^:!=<>i]|\(\?i[^:]|\(\?<[^!=]|\}\+|&&|--|~~|\[:)"
    r"|(?P<character_class>\\[pP]\{\w+\}|\\[sSdDwW])"
    r"|(?P<escape>\\[rntvf]|\\[^\w\s])"
    r"|(?P<bracket>\[\^?|\])"
    r"|(?P<plain>[^\\])",
    re.DOTALL,
)


def _translated(pattern: str) -> str:
    """`pattern` for tiktoken's engine, every character class spelled out as the code points that tokenizers' engine
    sees in it: the two may know different versions of Unicode."""
    translated, position, inside_brackets = [], 0, False
    while position < len(pattern):
        item = _PATTERN_ITEM.match(pattern, position)
        if item is None or item["refused"] or (not inside_brackets and item[0] in "^$"):
            raise NotExpressible(f"its split pattern, at {pattern[position : position + 8]!r}")
        if item["character_class"]:
            ranges = _code_points(item[0])
            translated.append(ranges if inside_brackets else f"[{ranges}]")
        elif item["bracket"]:
            if (item[0] == "]") != inside_brackets:
                raise NotExpressible(f"its split pattern, at {pattern[position : position + 8]!r}")
            inside_brackets = item[0] != "]"
            translated.append(item[0])
        else:
            translated.append(item[0])
        position = item.end()
    return "".join(translated)


# Blocks whose characters are all alike in every version of Unicode (ideographs, syllables, private use, planes that
# nothing is assigned in): their first character speaks for them, which makes the look at all of Unicode quick.
_UNIFORM_BLOCKS = {
    0x3400: 0x4DB5,
    0x4E00: 0x9FA5,
    0xAC00: 0xD7A3,
    0xE000: 0xF8FF,
    0x20000: 0x2A6D6,
    0x40000: 0xDFFFF,
    0xF0000: 0xFFFFD,
    0x100000: 0x10FFFD,
}


@functools.cache
def _looked_at() -> str:
    """Every character but surrogates, each uniform block by its first alone."""
    left_out = sorted([(first + 1, last) for first, last in _UNIFORM_BLOCKS.items()] + [(0xD800, 0xDFFF)])
    starts = [0, *(last + 1 for _, last in left_out)]
    ends = [*(first for first, _ in left_out), 0x110000]
    return "".join(chr(point) for start, end in zip(starts, ends, strict=True) for point in range(start, end))


@functools.cache
def _code_points(character_class: str) -> str:
    r"""What tokenizers' engine sees in a character class as `\p{L}`, as the inside of a bracket expression."""
    kind = character_class[:2]
    matcher = Split(Regex(kind.lower() + character_class[2:] + "+"), behavior="removed", invert=True)
    ranges = [(ord(run[0]), ord(run[-1])) for run, _ in matcher.pre_tokenize_str(_looked_at())]
    ranges = [(first, _UNIFORM_BLOCKS.get(last, last)) for first, last in ranges]
    if kind[1].isupper():
        edges = [-1, *(edge for pair in ranges for edge in pair), 0x110000]
        between = [(end + 1, start - 1) for end, start in zip(edges[::2], edges[1::2], strict=True)]
        ranges = [(first, last) for first, last in between if first <= last]
    return "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in ranges)
