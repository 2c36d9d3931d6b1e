"""Rows of several sources in one stream at exact shares, in an order that is a pure function of the position."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from hfgpt.data.rows import OrderedRows


@dataclass(frozen=True)
class MixtureSource:
    """Packed rows and their share of the stream; weights are relative to each other."""

    name: str
    rows: Dataset
    weight: float


class MixedRows(TorchDataset):
    """`total_rows` rows of `sources`, spread evenly: after any number of rows each source has given its share of them,
    to within one row a source.

    Each source is read in an order of its own, over as many epochs as it takes. All rows have the same length, so
    shares of rows are shares of tokens. Read it with a sequential sampler.
    """

    def __init__(self, sources: Sequence[MixtureSource], seed: int, total_rows: int):
        self.sources = list(sources)
        self.total_rows = total_rows
        self._shares = _shares([source.weight for source in sources])
        self._orders = [OrderedRows(s.rows, seed + i, total_rows) for i, s in enumerate(self.sources)]

    def __len__(self) -> int:
        return self.total_rows

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        if not 0 <= position < self.total_rows:
            raise IndexError(f"position {position} of {self.total_rows}")
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[dict[str, np.ndarray]]:
        sources, inner = source_of(np.asarray(positions, dtype=np.int64), self._shares)
        rows: list[dict[str, np.ndarray]] = [{}] * len(positions)
        for number, order in enumerate(self._orders):
            chosen = np.flatnonzero(sources == number)
            if chosen.size:
                for place, row in zip(chosen.tolist(), order.__getitems__(inner[chosen].tolist()), strict=True):
                    rows[place] = row
        return rows

    def rows_given(self) -> list[int]:
        """How many rows of the whole stream come from each source."""
        sources, _ = source_of(np.arange(self.total_rows), self._shares)
        return np.bincount(sources, minlength=len(self.sources)).tolist()


def source_of(positions: np.ndarray, shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """The source of the row at each position, and which of that source's rows it is (0-based).

    A source with share s takes position p when floor((p + 1) s) passes floor(p s); the positions that it leaves are
    dealt to the sources after it in the same way, at their shares of what is left.
    """
    left = np.asarray(positions, dtype=np.int64).copy()
    source = np.full(left.shape, len(shares) - 1, dtype=np.int64)
    inner = np.zeros_like(left)
    undecided = np.ones(left.shape, dtype=bool)
    rest = 1.0
    for number, share in enumerate(shares):
        part = min(1.0, share / rest) if rest > 0 else 1.0
        before = left if number == len(shares) - 1 else np.floor(left * part).astype(np.int64)
        after = left + 1 if number == len(shares) - 1 else np.floor((left + 1) * part).astype(np.int64)
        taken = undecided & (after > before)
        source[taken], inner[taken] = number, before[taken]
        undecided &= ~taken
        left = left - before
        rest -= share
    return source, inner


def epoch_rows(rows: Sequence[int], weights: Sequence[float]) -> int:
    """Rows of one epoch of a mixture: until, at these weights, the first source has been seen whole."""
    return int(min(count / share for count, share in zip(rows, _shares(weights), strict=True)))


def _shares(weights: Sequence[float]) -> list[float]:
    total = sum(weights)
    return [weight / total for weight in weights]
