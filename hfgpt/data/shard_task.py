"""Preparing one source shard: its blocks as files, each marked complete by a small JSON beside it. The task that one
process or one cluster worker runs; it can be killed at any moment and goes on from its last complete block."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hfgpt.data.blocks import Block, BlockSettings, HeldOutDocument, shard_blocks
from hfgpt.data.documents import SourceShard
from hfgpt.data.packing import PackedRows
from hfgpt.data.prepared import write_file, write_json, write_rows


@dataclass
class SplitCounts:
    """What one split of a block or of all data holds; `tokens` are text tokens, without BOS, so that
    tokens + bos_tokens == rows x max_length + dropped_tokens + beyond_tokens."""

    documents: int = 0
    text_bytes: int = 0
    tokens: int = 0
    rows: int = 0
    bos_tokens: int = 0
    dropped_tokens: int = 0
    beyond_tokens: int = 0  # in rows cut off because a wanted number of tokens was reached
    empty_documents: int = 0
    long_documents: int = 0
    cut_documents: int = 0

    def __add__(self, other: "SplitCounts") -> "SplitCounts":
        mine, others = asdict(self), asdict(other)
        return SplitCounts(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True)
class BlockRecord:
    """A complete block on disk, as its mark `blocks/<shard>-<block>.json` tells it."""

    shard: int
    block: int
    first_document: int
    end_document: int
    is_last: bool
    train: SplitCounts
    held_out_documents: int
    too_short: int
    left_out: dict[str, int]
    files: dict[str, tuple[int, str]] = field(default_factory=dict)  # name in the folder -> bytes, hash

    @property
    def train_file(self) -> str:
        return f"train/{self.shard:05d}-{self.block:05d}.arrow"

    @property
    def held_out_file(self) -> str:
        return f"blocks/{self.shard:05d}-{self.block:05d}.arrow"


def prepare_shard(
    folder: Path,
    index: int,
    shard: SourceShard,
    encode: Callable[[list[str]], list[np.ndarray]],
    settings: BlockSettings,
) -> Iterator[BlockRecord]:
    """Writes those blocks of shard number `index` that are not complete in `folder` yet; yields each once it is.

    Raises UserError for text that cannot be read, as the source says it.
    """
    records = list(complete_blocks(folder, index, settings))
    rows = sum(record.train.rows for record in records)
    if records and _is_enough(records[-1], rows, settings):
        return
    first_document = records[-1].end_document if records else 0
    for number, block in enumerate(shard_blocks(shard, encode, settings, first_document, rows), start=len(records)):
        yield _write_block(folder, index, number, block)


def complete_blocks(folder: Path, index: int, settings: BlockSettings) -> Iterator[BlockRecord]:
    """The complete blocks of shard number `index`, from its first one on, as far as they go without a gap."""
    rows = 0
    for number in count():
        record = _read_record(folder, index, number)
        if record is None:
            return
        yield record
        rows += record.train.rows
        if _is_enough(record, rows, settings):
            return


def is_shard_complete(records: list[BlockRecord], settings: BlockSettings) -> bool:
    """Whether these, the shard's complete blocks, are all that it has to give."""
    return bool(records) and _is_enough(records[-1], sum(record.train.rows for record in records), settings)


def read_held_out(path: Path) -> Iterator[HeldOutDocument]:
    """The held-out documents of one block."""
    import pyarrow as pa

    with pa.memory_map(str(path)) as file:
        table = pa.ipc.open_stream(file).read_all()
        for content_hash, text_bytes, tokens in zip(*table.columns, strict=True):
            yield HeldOutDocument(content_hash.as_py(), text_bytes.as_py(), tokens.values.to_numpy().copy())


def read_rows(path: Path) -> np.ndarray:
    """The (num_rows, max_length) training rows of one block, memory-mapped."""
    import pyarrow as pa

    column = pa.ipc.open_stream(pa.memory_map(str(path))).read_all().column("input_ids").combine_chunks()
    return column.flatten().to_numpy().reshape(len(column), -1)


def _is_enough(record: BlockRecord, rows: int, settings: BlockSettings) -> bool:
    return record.is_last or (settings.max_train_rows is not None and rows >= settings.max_train_rows)


def _mark(folder: Path, index: int, number: int) -> Path:
    return folder / f"blocks/{index:05d}-{number:05d}.json"


def _read_record(folder: Path, index: int, number: int) -> BlockRecord | None:
    """The record of a block whose files are there as they were written, else None."""
    try:
        record = BlockRecord(**json.loads(_mark(folder, index, number).read_text(encoding="utf-8")))
        if any((folder / name).stat().st_size != size for name, (size, _) in record.files.items()):
            return None
        return replace(record, train=SplitCounts(**record.train))  # type: ignore[arg-type]
    except (OSError, ValueError, TypeError):
        return None


def _write_block(folder: Path, index: int, number: int, block: Block) -> BlockRecord:
    packed = block.train
    record = BlockRecord(
        shard=index,
        block=number,
        first_document=block.first_document,
        end_document=block.end_document,
        is_last=block.is_last,
        train=split_counts(packed, block.train_text_bytes),
        held_out_documents=block.held_out_documents,
        too_short=block.too_short,
        left_out=dict(block.left_out),
    )
    if len(packed.rows):
        record.files[record.train_file] = write_rows(folder / record.train_file, packed.rows)
    if block.held_out:
        record.files[record.held_out_file] = _write_held_out(folder / record.held_out_file, block.held_out)
    write_json(_mark(folder, index, number), asdict(record))
    return record


def split_counts(packed: PackedRows, text_bytes: int) -> SplitCounts:
    return SplitCounts(
        documents=packed.documents,
        text_bytes=text_bytes,
        tokens=packed.tokens_in,
        rows=len(packed.rows),
        bos_tokens=packed.bos_added,
        dropped_tokens=packed.dropped_tokens,
        empty_documents=packed.empty_documents,
        long_documents=packed.long_documents,
        cut_documents=packed.cut_documents,
    )


def _write_held_out(path: Path, documents: list[HeldOutDocument]) -> tuple[int, str]:
    import pyarrow as pa

    offsets = np.cumsum([0] + [len(document.tokens) for document in documents], dtype=np.int64)
    tokens = pa.LargeListArray.from_arrays(offsets, np.concatenate([document.tokens for document in documents]))
    batch = pa.record_batch(
        {
            "content_hash": pa.array([document.content_hash for document in documents], pa.uint64()),
            "text_bytes": pa.array([document.text_bytes for document in documents], pa.int64()),
            "tokens": tokens,
        }
    )

    def write(file: BinaryIO) -> None:
        with pa.ipc.new_stream(file, batch.schema) as stream:
            stream.write_batch(batch)

    return write_file(path, write)
