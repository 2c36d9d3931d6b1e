"""The one packer: documents become rows of exactly max_length tokens, every piece behind its own BOS. A pure
function of one block of documents, shared by prepared data and streams; it never pads and never loses a token unseen.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hfgpt.data.order import row_order

# Tokens copied at once: bounds the temporary index arrays to 8 MB.
_COPY_TOKENS = 1_000_000


@dataclass(frozen=True)
class PackedRows:
    """Packed rows and the full account of them: tokens_in + bos_added == rows.size + dropped_tokens."""

    rows: np.ndarray  # (num_rows, max_length), dtype of the documents
    documents: int  # documents that had at least one token
    empty_documents: int
    tokens_in: int  # text tokens given, without BOS
    bos_added: int  # BOS tokens standing in the rows
    dropped_tokens: int  # text tokens of the last, incomplete row
    long_documents: int  # longer than a row, so split by necessity
    cut_documents: int  # documents cut to close a row, where a short enough one was not at hand


def pack_documents(documents: Sequence[np.ndarray], max_length: int, bos_token_id: int) -> PackedRows:
    """Packs documents (1-D integer arrays of text tokens, no BOS) into rows of exactly `max_length` tokens.

    Best-fit: a row takes the longest piece that fits until it is full. A document longer than a row first gives
    full rows. Where nothing fits, the shortest document is cut at the row's end and its rest goes back into the
    pool behind a BOS of its own. The shortest, because all tokens of a rest have lost the context before the cut:
    0.2% of C4's tokens in rows of 2048, against 13% if the longest is cut (benchmarks/data_preparation.md). A gap
    of one token is closed by a lone BOS. Only what remains once the pool holds less than a row is dropped. Best fit
    uses up long documents first, so the rows are put in a pseudo-random order, the same every time: a
    prefix of them is then a fair sample. O(n log n) in the documents.

    Raises ValueError for `max_length` below 2.
    """
    if max_length < 2:
        raise ValueError(f"max_length is {max_length}; a row needs at least 2 tokens, BOS and one of text")
    text_lengths = np.fromiter((len(document) for document in documents), dtype=np.int64, count=len(documents))
    tokens_in = int(text_lengths.sum())
    dtype = documents[0].dtype if len(documents) else np.dtype(np.uint32)
    flat = np.concatenate(documents) if len(documents) else np.empty(0, dtype)
    starts = np.cumsum(text_lengths) - text_lengths

    full_starts, full_lengths = _full_rows(starts, text_lengths, max_length)
    remainders = text_lengths % (max_length - 1)
    piece_starts, piece_lengths, cuts, dropped = _best_fit(starts + text_lengths - remainders, remainders, max_length)
    piece_starts = np.concatenate([full_starts, piece_starts])
    piece_lengths = np.concatenate([full_lengths, piece_lengths])
    rows = _copy_rows(flat, piece_starts, piece_lengths, max_length, bos_token_id)
    return PackedRows(
        rows=rows,
        documents=int(np.count_nonzero(text_lengths)),
        empty_documents=int(np.count_nonzero(text_lengths == 0)),
        tokens_in=tokens_in,
        bos_added=len(piece_starts),
        dropped_tokens=dropped,
        long_documents=int(np.count_nonzero(text_lengths >= max_length)),
        cut_documents=len(np.unique(np.searchsorted(starts, cuts, side="right"))),
    )


def document_positions(rows: np.ndarray, bos_token_id: int) -> np.ndarray:
    """Positions that restart at 0 at every BOS; (batch, seq) tokens -> (batch, seq) int64."""
    indices = np.arange(rows.shape[1], dtype=np.int64)
    document_starts = np.maximum.accumulate(np.where(rows == bos_token_id, indices, 0), axis=1)
    return indices - document_starts


def _full_rows(starts: np.ndarray, text_lengths: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Start and text length of every piece that fills a row alone."""
    rows_per_document = text_lengths // (max_length - 1)
    first_row = np.cumsum(rows_per_document) - rows_per_document
    row_in_document = np.arange(rows_per_document.sum()) - np.repeat(first_row, rows_per_document)
    full_starts = np.repeat(starts, rows_per_document) + row_in_document * (max_length - 1)
    return full_starts, np.full(len(full_starts), max_length - 1, dtype=np.int64)


def _best_fit(
    starts: np.ndarray, text_lengths: np.ndarray, max_length: int
) -> tuple[np.ndarray, np.ndarray, list[int], int]:
    """Places pieces shorter than a row. Returns starts and text lengths of the placed pieces, row after row; where
    documents were cut; and the text tokens left over."""
    # Pieces by size (text + BOS); pop() takes the earliest document of that size.
    pool: dict[int, list[int]] = {}
    for start, size in zip(starts[::-1].tolist(), (text_lengths[::-1] + 1).tolist(), strict=True):
        if size > 1:
            pool.setdefault(size, []).append(start)
    sizes = sorted(pool)
    pooled = int(text_lengths.sum() + np.count_nonzero(text_lengths))

    placed_starts: list[int] = []
    placed_lengths: list[int] = []
    cuts: list[int] = []
    while pooled >= max_length:
        space = max_length
        while space > 1:
            chosen = max(bisect_right(sizes, space) - 1, 0)  # the longest that fits, else the shortest
            size = sizes[chosen]
            pieces = pool[size]
            start = pieces.pop()
            if not pieces:
                del pool[size]
                del sizes[chosen]
            pooled -= size
            if size > space:
                rest = size - (space - 1)
                if rest not in pool:
                    pool[rest] = []
                    insort(sizes, rest)
                pool[rest].append(start + space - 1)
                pooled += rest
                cuts.append(start)
                size = space
            placed_starts.append(start)
            placed_lengths.append(size - 1)
            space -= size
        if space:
            placed_starts.append(0)
            placed_lengths.append(0)
    dropped = sum((size - 1) * len(pieces) for size, pieces in pool.items())
    return np.array(placed_starts, dtype=np.int64), np.array(placed_lengths, dtype=np.int64), cuts, dropped


def _copy_rows(
    flat: np.ndarray, piece_starts: np.ndarray, piece_lengths: np.ndarray, max_length: int, bos_token_id: int
) -> np.ndarray:
    """Copies the pieces, BOS in front of each, into (num_rows, max_length), rows in pseudo-random order."""
    sizes = piece_lengths + 1
    targets = np.cumsum(sizes) - sizes
    num_rows = int(sizes.sum()) // max_length
    made = targets // max_length
    targets += (row_order(np.arange(num_rows), num_rows, seed=0)[made] - made) * max_length

    rows = np.full(num_rows * max_length, bos_token_id, dtype=flat.dtype)
    ends = np.cumsum(piece_lengths)
    begin = 0
    while begin < len(piece_lengths):
        copied = ends[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(ends, copied + _COPY_TOKENS, side="right")))
        lengths = piece_lengths[begin:end]
        within = np.arange(ends[end - 1] - copied) - np.repeat(ends[begin:end] - lengths - copied, lengths)
        source = np.repeat(piece_starts[begin:end], lengths) + within
        rows[np.repeat(targets[begin:end] + 1, lengths) + within] = flat[source]
        begin = end
    return rows.reshape(num_rows, max_length)
