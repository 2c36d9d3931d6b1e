"""The tokens of CORE: which of a prompt's are scored, and what is cut off where a prompt is longer than the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hfgpt.evals.core.bundle import Kind


@dataclass(frozen=True)
class ScoredTokens:
    """A prompt whose tokens from `start` on are scored; `unscored` counts those of them that did not fit."""

    ids: list[int]
    start: int
    unscored: int = 0

    @property
    def context(self) -> list[int]:
        return self.ids[: self.start]

    @property
    def continuation(self) -> list[int]:
        return self.ids[self.start :]

    def cropped(self, max_length: int) -> ScoredTokens:
        """Its last `max_length` tokens. The first token has nothing before it and is never scored."""
        excess = len(self.ids) - max_length
        if excess <= 0:
            return self
        start = self.start - excess
        return ScoredTokens(self.ids[excess:], max(start, 1), unscored=max(1 - start, 0))


def scored_tokens(kind: Kind, sequences: Sequence[list[int]]) -> list[ScoredTokens]:
    """What is scored of each option: after the prefix that all share (multiple choice), or the suffix that all share
    (schema). A language modelling question is the pair of its prompt without and with the continuation, and one
    result."""
    if kind == "schema":
        suffix = common_prefix([ids[::-1] for ids in sequences])
        return [ScoredTokens(ids, len(ids) - suffix) for ids in sequences]
    start = common_prefix(sequences)
    scored = sequences if kind == "multiple_choice" else sequences[1:]
    return [ScoredTokens(ids, start) for ids in scored]


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """How many first tokens all sequences share."""
    length = 0
    for tokens in zip(*sequences, strict=False):
        if len(set(tokens)) > 1:
            break
        length += 1
    return length
