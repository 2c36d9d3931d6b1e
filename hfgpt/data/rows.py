"""Packed rows as a torch dataset in the order of a whole run, and their collation into batches. Nothing here packs
or tokenizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Dataset as TorchDataset

from hfgpt.data.order import row_order
from hfgpt.data.packing import document_positions

if TYPE_CHECKING:  # `hfgpt bench` collates where datasets is not installed
    from datasets import Dataset


class OrderedRows(TorchDataset):
    """`total_rows` packed rows in the run's order: item p is row `row_order(p)` of `rows`, over as many epochs as fit.

    `rows` is a `datasets.Dataset` with a column `input_ids` of rows of one length; without `seed` it is
    read in its own order, over and over. Read it with a sequential sampler. Rows are copied straight from
    the memory map: `datasets`' own indexing of 32 x 2048 tokens takes 20 times as long.
    """

    def __init__(self, rows: Dataset, seed: int | None, total_rows: int):
        if len(rows) == 0:
            raise ValueError("the dataset has no rows")
        if rows._indices is not None:  # after shuffle() or filter(): the table's order is not the dataset's
            rows = rows.flatten_indices()
        self.rows = rows
        self.seed = seed
        self.total_rows = total_rows
        self._chunks: list[np.ndarray] | None = None
        self._first_rows = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        return self.total_rows

    def order(self, positions: np.ndarray) -> np.ndarray:
        """Rows of the dataset at these positions of the run."""
        if self.seed is None:
            return np.asarray(positions, dtype=np.int64) % len(self.rows)
        return row_order(positions, len(self.rows), self.seed)

    def __getitem__(self, position: int) -> dict[str, np.ndarray]:
        if not 0 <= position < self.total_rows:
            raise IndexError(f"position {position} of {self.total_rows}")
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[dict[str, np.ndarray]]:
        if self._chunks is None:
            self._open()
        assert self._chunks is not None
        rows = self.order(np.asarray(positions))
        chunks = np.searchsorted(self._first_rows, rows, side="right") - 1
        offsets = rows - self._first_rows[chunks]
        return [
            {"input_ids": self._chunks[chunk][offset]}
            for chunk, offset in zip(chunks.tolist(), offsets.tolist(), strict=True)
        ]

    def _open(self) -> None:
        """Views, without a copy, of every record batch as (rows, max_length)."""
        columns = [chunk for chunk in self.rows.data.column("input_ids").chunks if len(chunk)]
        self._chunks = [column.flatten().to_numpy().reshape(len(column), -1) for column in columns]
        lengths = np.array([len(chunk) for chunk in self._chunks])
        self._first_rows = np.cumsum(lengths) - lengths

    def __getstate__(self) -> dict:
        """Leaves the views behind, so that a loader's process gets file names instead of a copy of the data."""
        return self.__dict__ | {"_chunks": None}


class RowCollator:
    """Packed rows -> {"input_ids", "labels", "position_ids"}, int64 tensors of shape (batch, max_length).

    Labels equal inputs, the model's loss shifts them; the label at a document's start is its BOS, which the last
    token of the document before predicts. `position_ids` restart at every BOS, and are left out when
    attention may cross documents.

    With `with_lengths` the keywords of variable-length flash attention are there too (`sequence_lengths`), so that
    nothing has to be asked of the device.
    """

    def __init__(self, bos_token_id: int, cross_document_attention: bool = False, with_lengths: bool = False):
        self.bos_token_id = bos_token_id
        self.cross_document_attention = cross_document_attention
        self.with_lengths = with_lengths

    def __call__(self, features: list[dict[str, np.ndarray]]) -> dict[str, Any]:
        rows = np.stack([feature["input_ids"] for feature in features]).astype(np.int64)
        input_ids = torch.from_numpy(rows)
        batch: dict[str, Any] = {"input_ids": input_ids, "labels": input_ids.clone()}
        if not self.cross_document_attention:
            batch["position_ids"] = torch.from_numpy(document_positions(rows, self.bos_token_id))
        if self.with_lengths:
            starts = np.zeros(rows.shape, dtype=bool) if self.cross_document_attention else rows == self.bos_token_id
            starts[:, 0] = True
            batch.update(sequence_lengths(starts))
        return batch


def sequence_lengths(starts: np.ndarray) -> dict[str, Any]:
    """Flash attention's keywords for sequences that begin where `starts` (batch, max_length) is true:
    `cu_seq_lens_q` and `cu_seq_lens_k`, the bounds of the sequences in the flattened batch, int32, and `max_length_q`
    and `max_length_k`, no less than the longest. Empty sequences at the end bring their number up to a power of two
    of at least eight a row, so that compiled code meets few sizes."""
    bounds = np.append(np.flatnonzero(starts), starts.size)
    sequences = 1 << (max(8 * len(starts), len(bounds) - 1) - 1).bit_length()
    bounds = np.pad(bounds, (0, sequences + 1 - len(bounds)), constant_values=starts.size)
    cu_seq_lens = torch.from_numpy(bounds.astype(np.int32))
    longest = starts.shape[1]
    return {
        "cu_seq_lens_q": cu_seq_lens,
        "cu_seq_lens_k": cu_seq_lens,
        "max_length_q": longest,
        "max_length_k": longest,
    }


def collate_rows(bos_token_id: int, cross_document_attention: bool = False, with_lengths: bool = False) -> RowCollator:
    """The collator of packed rows; picklable, for loader processes."""
    return RowCollator(bos_token_id, cross_document_attention, with_lengths)
