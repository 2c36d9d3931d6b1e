"""Which of many questions stand, in part or whole, in a text: n-grams of words, found by 64-bit hashes in numpy. Knows
nothing of tasks or training data."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

NGRAM_WORDS = 13  # Brown et al. 2020 (arXiv:2005.14165), appendix C
CONTEXT_WORDS = 6  # shown on either side of what was found

_WORD = re.compile(r"[^\W_]+|[+=]")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FILTER_BITS = 20  # of a hash: a table of 2^20 flags stays in the processor's cache


def words_of(text: str) -> list[str]:
    """Runs of letters and digits in lower case: punctuation, spaces and case do not count. Plus and equals signs are
    words, or else 1 + 10 = 11 would stand in "11 - 1 = 10, 11 - 2 = 9"."""
    return _WORD.findall(text.lower())


@dataclass(frozen=True)
class Overlap:
    """A question, by its number, and the piece of a text that shares an n-gram with it."""

    question: int
    text: str


class NgramIndex:
    """All n-grams of words of many questions. A question of fewer than `NGRAM_WORDS` words is one n-gram, all of it;
    one without words is never found.

    Two n-grams are held for the same where their 64-bit hashes are: among 10^10 words of text and 10^6 n-grams that
    happens by chance once in about 2,000 times.
    """

    def __init__(self, questions: Iterable[Sequence[str]]):
        self._numbers: dict[str, int] = {}  # of the words, from 1; 0 is every word that no question has
        by_length: dict[int, list[tuple[int, np.ndarray]]] = {}
        for question, words in enumerate(questions):
            if words:
                numbers = [self._numbers.setdefault(word, len(self._numbers) + 1) for word in words]
                length = min(len(words), NGRAM_WORDS)
                by_length.setdefault(length, []).append((question, np.array(numbers)))
        random = np.random.default_rng(0)
        self._codes = random.integers(1, 2**64, size=len(self._numbers) + 1, dtype=np.uint64)
        self._grams = {length: self._table(length, group) for length, group in by_length.items()}

    def _table(
        self, length: int, questions: list[tuple[int, np.ndarray]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sorted hashes, the question of each, and the flags of their first bits."""
        hashes = [_hashes(self._codes[numbers], length)[length] for _, numbers in questions]
        owners = np.repeat([question for question, _ in questions], [len(found) for found in hashes]).astype(np.int32)
        every = np.concatenate(hashes)
        order = np.argsort(every, kind="stable")
        flags = np.zeros(1 << _FILTER_BITS, dtype=bool)
        flags[_first_bits(every)] = True
        return every[order], owners[order], flags

    def find(self, texts: Sequence[str]) -> tuple[list[Overlap], int]:
        """Each question that shares an n-gram with one of the texts, once, with one place where it does; and the
        number of words read. No n-gram reaches from one text into the next."""
        words: list[str] = []
        ends = []
        for text in texts:
            words += words_of(text)
            words.append("")  # in no question
            ends.append(len(words))
        numbers = np.array([self._numbers.get(word, 0) for word in words], dtype=np.int64)
        unknown = np.flatnonzero(numbers == 0)
        hashes = _hashes(self._codes[numbers], max(self._grams, default=0), keep=self._grams)
        places: dict[int, tuple[int, int]] = {}  # question -> first word, number of words
        for length, (grams, owners, flags) in self._grams.items():
            candidates = np.flatnonzero(flags[_first_bits(hashes[length])])
            if not candidates.size:
                continue
            next_unknown = unknown[np.searchsorted(unknown, candidates)]
            candidates = candidates[next_unknown - candidates >= length]
            wanted, firsts = np.unique(hashes[length][candidates], return_index=True)
            left, right = np.searchsorted(grams, wanted, "left"), np.searchsorted(grams, wanted, "right")
            for place, start, end in zip(candidates[firsts].tolist(), left.tolist(), right.tolist(), strict=True):
                for question in owners[start:end].tolist():
                    places.setdefault(question, (place, length))
        overlaps = []
        for question, (place, length) in sorted(places.items()):
            number = int(np.searchsorted(ends, place, side="right"))
            begin = max(place - CONTEXT_WORDS, ends[number - 1] if number else 0)
            piece = words[begin : min(place + length + CONTEXT_WORDS, ends[number] - 1)]
            overlaps.append(Overlap(question, " ".join(piece)))
        return overlaps, len(words) - len(texts)


def _hashes(codes: np.ndarray, longest: int, keep: Iterable[int] = ()) -> dict[int, np.ndarray]:
    """For each length in `keep`, and `longest`, the hash of the n-gram that begins at each word: a polynomial in the
    words' random codes, modulo 2^64. At the end, where no n-gram of that length begins, there is none."""
    kept = {longest, *keep}
    rolling, found = codes, {}
    for length in range(1, longest + 1):
        if length > 1:
            rolling = rolling[:-1] * _MULTIPLIER + codes[length - 1 :]
        if length in kept:
            found[length] = rolling ^ (rolling >> np.uint64(29))
    return found


def _first_bits(hashes: np.ndarray) -> np.ndarray:
    return (hashes >> np.uint64(64 - _FILTER_BITS)).astype(np.int64)
