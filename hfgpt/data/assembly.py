"""Complete blocks -> one folder of prepared data. Training files are listed where they lie, not copied; validation
rows are packed here, from the held-out documents of all shards together."""

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hfgpt.data.blocks import HeldOutDocument, HeldOutSample
from hfgpt.data.packing import pack_documents
from hfgpt.data.preparation_plan import PreparationPlan
from hfgpt.data.prepared import (
    FORMAT_VERSION,
    RECORD,
    PreparedData,
    copy_tokenizer,
    write_json,
    write_rows,
    write_split,
)
from hfgpt.data.shard_task import (
    BlockRecord,
    SplitCounts,
    complete_blocks,
    is_shard_complete,
    read_held_out,
    read_rows,
    split_counts,
)
from hfgpt.errors import UserError


@dataclass
class SourceCounts:
    """Documents that came from the source, and those that were left out of it."""

    documents: int = 0  # long enough, of either split
    held_out_documents: int = 0
    too_short: int = 0
    left_out: Counter = field(default_factory=Counter)


def assemble(plan: PreparationPlan) -> PreparedData:
    """Puts the plan's complete shards together, up to `max_train_rows` training rows.

    Raises UserError if a split has no row, RuntimeError if a shard that is needed is not complete.
    """
    for folder in ("train", "blocks"):  # of workers that were killed; none is left
        for path in (plan.folder / folder).glob("*.tmp"):
            path.unlink()
    records, counts = _collect_blocks(plan)
    train = sum((record.train for record in records), SplitCounts())
    check_documents(plan, counts)
    _check_rows(plan, train, "train")
    files = {record.train_file: record.files[record.train_file] for record in records if record.train.rows}
    limit = plan.settings.max_train_rows
    if limit is not None and train.rows > limit:
        kept = records[-1].train.rows - (train.rows - limit)
        name, written, cut = _cut_rows(plan, records[-1], kept)
        del files[records[-1].train_file]
        files[name] = written
        train = replace(
            train,
            rows=limit,
            bos_tokens=train.bos_tokens - int(np.count_nonzero(cut == plan.settings.bos_token_id)),
            beyond_tokens=int(np.count_nonzero(cut != plan.settings.bos_token_id)),
        )
    for path in (plan.folder / "train").glob("*.arrow"):  # of shards that turned out not to be needed
        if f"train/{path.name}" not in files and f"train/{path.name}" not in records[-1].files:
            path.unlink()

    sample = HeldOutSample(plan.settings.validation_tokens)
    for record in records:
        if record.held_out_file in record.files:
            for document in read_held_out(plan.folder / record.held_out_file):
                sample.add(document)
    return write_prepared(plan, sample.documents(), counts, train, files)


def write_prepared(
    plan: PreparationPlan,
    held_out: list[HeldOutDocument],
    counts: SourceCounts,
    train: SplitCounts | None,
    train_files: dict[str, tuple[int, str]],
) -> PreparedData:
    """Packs the validation rows and writes everything but training rows; prepared.json comes last."""
    settings, folder = plan.settings, plan.folder
    rows, validation = _pack_validation(plan, held_out)
    if settings.validation_fraction:
        _check_rows(plan, validation, "validation")
    files = dict(train_files)
    files["validation/00000.arrow"] = write_rows(folder / "validation/00000.arrow", rows)
    if train is not None:
        _write_split(plan, "train", list(train_files))
    _write_split(plan, "validation", ["validation/00000.arrow"])
    copy_tokenizer(plan.tokenizer_folder, folder / "tokenizer")
    splits = {"train": train} if train is not None else {}
    statistics: dict[str, Any] = {
        "max_length": settings.max_length,
        "documents": counts.documents,
        "held_out_documents": counts.held_out_documents,
        "too_short": counts.too_short,
        "left_out": dict(sorted(counts.left_out.items())),
        **{name: asdict(split) for name, split in (splits | {"validation": validation}).items()},
    }
    record = {
        "format_version": FORMAT_VERSION,
        "key": folder.name,
        "inputs": plan.inputs,
        "statistics": statistics,
        "files": files,
    }
    write_json(folder / RECORD, record)
    return PreparedData(folder, statistics)


def _collect_blocks(plan: PreparationPlan) -> tuple[list[BlockRecord], SourceCounts]:
    records: list[BlockRecord] = []
    counts = SourceCounts()
    limit = plan.settings.max_train_rows
    rows = 0
    for index, shard in enumerate(plan.shards):
        if limit is not None and rows >= limit:
            break
        blocks = list(complete_blocks(plan.folder, index, plan.settings))
        enough_within = limit is not None and rows + sum(block.train.rows for block in blocks) >= limit
        if not enough_within and not is_shard_complete(blocks, plan.settings):
            raise RuntimeError(f"shard {shard.name} is not complete in {plan.folder}")
        for block in blocks:
            if limit is not None and rows >= limit:
                break
            records.append(block)
            rows += block.train.rows
            counts.documents += block.train.documents + block.train.empty_documents + block.held_out_documents
            counts.held_out_documents += block.held_out_documents
            counts.too_short += block.too_short
        counts.left_out.update(records[-1].left_out)
    return records, counts


def _cut_rows(plan: PreparationPlan, record: BlockRecord, kept: int) -> tuple[str, tuple[int, str], np.ndarray]:
    """Writes the first `kept` rows of a block as a file of their own; returns its name, size and hash, and the rows
    left off. Its rows stand in pseudo-random order, so these are no biased choice."""
    rows = read_rows(plan.folder / record.train_file)
    name = record.train_file.replace(".arrow", f".first{kept}.arrow")
    return name, write_rows(plan.folder / name, rows[:kept]), rows[kept:]


def _pack_validation(plan: PreparationPlan, held_out: list[HeldOutDocument]) -> tuple[np.ndarray, SplitCounts]:
    settings = plan.settings
    packed = pack_documents([document.tokens for document in held_out], settings.max_length, settings.bos_token_id)
    counts = split_counts(packed, sum(document.text_bytes for document in held_out))
    limit = settings.validation_tokens // settings.max_length
    cut = packed.rows[limit:]
    counts.rows = min(counts.rows, limit)
    counts.beyond_tokens = int(np.count_nonzero(cut != settings.bos_token_id))
    counts.bos_tokens -= cut.size - counts.beyond_tokens
    return packed.rows[:limit].astype(settings.token_type), counts


def _write_split(plan: PreparationPlan, split: str, files: list[str]) -> None:
    write_split(
        plan.folder / split,
        [Path(name).name for name in files],
        plan.settings.max_length,
        plan.settings.token_type,
        fingerprint=f"{plan.folder.name}-{split}",
    )


def check_documents(plan: PreparationPlan, counts: SourceCounts) -> None:
    """Raises UserError if, after the whole text, a split has no document."""
    fraction = plan.settings.validation_fraction
    left_out = ", ".join(f"{number} {reason.replace('_', ' ')}" for reason, number in counts.left_out.items())
    if counts.documents == 0:
        raise UserError(
            f"The text in data has no document: {len(plan.shards)} shards read from {plan.shards[0].name} on, "
            f"{counts.too_short} shorter than data.min_document_chars, left out: {left_out or 'nothing'}; "
            "check data.data_path or data.dataset, data.columns and data.min_document_chars."
        )
    if counts.held_out_documents == counts.documents:
        raise UserError(
            f"All of the {counts.documents} documents were held out for validation and none is left to train on; "
            f"lower data.validation_fraction (now {fraction}), cut the text into more documents "
            "(data.document_separator), or bring more text."
        )
    if fraction and counts.held_out_documents == 0:
        raise UserError(
            f"None of the {counts.documents} documents was held out for validation: raise data.validation_fraction "
            f"(now {fraction}){_or_threshold(plan)}, cut the text into more documents (data.document_separator), or "
            "set data.validation_fraction to 0 to train without validation."
        )


def _or_threshold(plan: PreparationPlan) -> str:
    return " or data.tokens_threshold" if plan.settings.max_train_rows is not None else ""


def _check_rows(plan: PreparationPlan, counts: SplitCounts, split: str) -> None:
    if counts.rows == 0:
        more = f"bring more text{_or_threshold(plan)}"
        if split != "train":
            more = f"raise data.validation_fraction, or {more}"
        raise UserError(
            f"The {split} split has {counts.tokens} tokens in {counts.documents} documents, too few for one row of "
            f"data.max_length {plan.settings.max_length}: lower data.max_length, or {more}."
        )
