"""Pseudo-random order without a table: the row at every position of a run, over all its epochs, is a pure function of
the seed, so that resuming is an offset and every process sees the same order."""

import math
from collections.abc import Iterator

import numpy as np

# Four Feistel rounds make a pseudo-random permutation of pseudo-random functions (Luby and Rackoff 1988); two more
# cost 40 microseconds a batch and cover for the lighter mixer.
_ROUNDS = 6
_BLOCK = 4096  # positions whose rows a sampler computes at once


def row_order(positions: np.ndarray, num_rows: int, seed: int) -> np.ndarray:
    """Rows (int64, in 0..num_rows-1) that stand at `positions` (0-based, over all epochs) of a run's order.

    Epoch `position // num_rows` is a permutation of its own. No table is made: a Feistel network over
    ceil(sqrt(num_rows))^2 cells, keyed by seed and epoch, walks its cycle until it meets a row that exists.
    """
    positions = np.asarray(positions, dtype=np.uint64)
    epochs, cells = np.divmod(positions, np.uint64(num_rows))
    keys = _mix(_mix(np.array([seed % 2**64], dtype=np.uint64)) + epochs)
    side = np.uint64(math.isqrt(max(num_rows - 1, 0)) + 1)
    cells = _feistel(cells, keys, side)
    while (outside := np.flatnonzero(cells >= num_rows)).size:
        cells[outside] = _feistel(cells[outside], keys[outside], side)
    return cells.astype(np.int64)


class RunOrder:
    """The rows of a whole run of `total_rows`, over as many epochs as it takes: a sampler for torch's DataLoader.

    An epoch ends wherever it does in a step, which the next one fills, so that steps are the same on any number of
    processes.
    """

    def __init__(self, num_rows: int, total_rows: int, seed: int):
        self.num_rows, self.total_rows, self.seed = num_rows, total_rows, seed

    def __len__(self) -> int:
        return self.total_rows

    def __iter__(self) -> Iterator[int]:
        for begin in range(0, self.total_rows, _BLOCK):
            positions = np.arange(begin, min(begin + _BLOCK, self.total_rows))
            yield from row_order(positions, self.num_rows, self.seed).tolist()


def _feistel(cells: np.ndarray, keys: np.ndarray, side: np.uint64) -> np.ndarray:
    left, right = np.divmod(cells, side)
    for round_number in range(_ROUNDS):
        left, right = right, (left + _mix(keys + right + np.uint64(round_number << 40)) % side) % side
    return left * side + right


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele, Lea and Flood 2014): a fixed bijection of 64-bit integers."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
