"""Conversations -> rows of tokens and labels on disk, one conversation a row, for supervised fine-tuning: split by
content, counted, and cached by what went into them. Packing is the trainer's."""

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from filelock import FileLock
from tqdm import tqdm

from hfgpt.arguments import DataArguments
from hfgpt.cores import available_cores
from hfgpt.data.chat_rows import ConversationShard, conversation_shards, download
from hfgpt.data.chat_tokens import check_template, marked_conversation, tokenize_conversation
from hfgpt.data.prepared import digest_of, write_json
from hfgpt.data.sft_batches import SPLITS, LabelledBatch, SftCounts, SftSettings, label_batch
from hfgpt.data.worker_processes import ordered_map
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

__all__ = ["SftCounts", "SftData", "marked_conversation", "sft_dataset", "tokenize_conversation"]

FORMAT_VERSION = 1
RECORD = "sft.json"  # written last: it marks the folder complete
BATCH_CONVERSATIONS = 128
ALONE_SECONDS = 5.0  # processes take about three to start


@dataclass(frozen=True)
class SftData:
    """Memory-mapped rows with the columns input_ids and labels (int32 lists); -100 is no loss. `validation` may be
    empty. `key` is the hash of what went into them."""

    train: "Dataset"
    validation: "Dataset"
    counts: SftCounts
    key: str


def sft_dataset(
    data: DataArguments,
    tokenizer: "PreTrainedTokenizerFast",
    max_length: int,
    cache_dir: Path,
    num_proc: int | None = None,
) -> SftData:
    """Rows of the conversations that section `data` names, in `cache_dir`/<key>, made there first if missing.

    The key is a hash of the source's fingerprints, the tokenizer, its template and every option that decides a row.
    A conversation is held out for validation by a hash of its rendered text, so that copies stay together. Several
    processes may call this at once: one works, the others wait. Memory stays flat as data grows.

    Raises UserError for a source that cannot be read, a template that does not mark answers, and where no token is
    supervised.
    """
    if not 0.0 <= data.validation_fraction < 1.0:
        raise UserError(
            f"data.validation_fraction is {data.validation_fraction}; set 0 (no validation) or more, below 1."
        )
    settings = SftSettings(max_length, data.validation_fraction)
    check_template(tokenizer)
    shards = conversation_shards(data)
    inputs = {
        "format_version": FORMAT_VERSION,
        "conversations": digest_of([(shard.name, shard.fingerprint()) for shard in shards]),
        "tokenizer": digest_of([tokenizer.backend_tokenizer.to_str(), tokenizer.special_tokens_map]),
        "chat_template": tokenizer.chat_template,
        **asdict(settings),
    }
    folder = Path(cache_dir) / digest_of(inputs)[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            download(shards)
            label = partial(label_batch, tokenizer, settings)
            num_proc = num_proc or data.num_proc or available_cores()
            with closing(_labelled(shards, label, num_proc)) as batches:
                _write(folder, batches, inputs)
    return _open(folder, data, max_length)


def _labelled(
    shards: list[ConversationShard], label: Callable[[list[dict]], LabelledBatch], num_proc: int
) -> Generator[LabelledBatch, None, None]:
    """All batches, in order; processes help once it takes longer than they take to start."""
    left_out: Counter = Counter()
    conversations = (conversation for shard in shards for conversation in shard.conversations(left_out))
    batches = iter(lambda: list(islice(conversations, BATCH_CONVERSATIONS)), [])
    start = time.monotonic()
    for batch in batches:
        yield label(batch)
        if num_proc > 1 and time.monotonic() - start > ALONE_SECONDS:
            yield from ordered_map(label, batches, num_proc)
    yield LabelledBatch({}, SftCounts(left_out=dict(left_out)))


def _write(folder: Path, batches: Iterable[LabelledBatch], inputs: dict[str, Any]) -> None:
    """Writes the rows as Arrow streams, the format of `datasets`, and then `folder` in one step."""
    from datasets import Features, List, Value

    schema = Features({name: List(Value("int32")) for name in ("input_ids", "labels")}).arrow_schema
    aside = folder.with_name(f"{folder.name}.being-written")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    aside.mkdir()
    counts = SftCounts()
    with ExitStack() as stack:
        files = {split: stack.enter_context((aside / f"{split}.arrow").open("wb")) for split in SPLITS}
        streams = {split: pa.ipc.new_stream(file, schema) for split, file in files.items()}
        progress = stack.enter_context(tqdm(desc="tokenizing conversations", unit="", disable=not sys.stderr.isatty()))
        for batch in batches:
            counts += batch.counts
            progress.update(batch.counts.conversations)
            for split, rows in batch.rows.items():
                if rows:
                    columns = [_list_array([row.input_ids for row in rows]), _list_array([row.labels for row in rows])]
                    streams[split].write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
        for split, file in files.items():
            streams[split].close()
            file.flush()
            os.fsync(file.fileno())
    sizes = {path.name: path.stat().st_size for path in aside.iterdir()}
    write_json(aside / RECORD, {"inputs": inputs, "counts": asdict(counts), "bytes": sizes})
    aside.rename(folder)


def _is_complete(folder: Path) -> bool:
    try:
        sizes = json.loads((folder / RECORD).read_text(encoding="utf-8"))["bytes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError):
        return False


def _list_array(lists: list[np.ndarray]) -> pa.ListArray:
    offsets = np.cumsum([0, *map(len, lists)], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(lists)))


def _open(folder: Path, data: DataArguments, max_length: int) -> SftData:
    from datasets import Dataset

    counts = SftCounts(**json.loads((folder / RECORD).read_text(encoding="utf-8"))["counts"])
    source = data.data_path or data.dataset
    if not counts.supervised_tokens:
        raise UserError(
            f"No token of {source} is supervised, so there is nothing to learn: {counts.summary()}. Raise "
            f"data.max_length ({max_length}), or give conversations in which an assistant answers."
        )
    train, validation = (Dataset.from_file(str(folder / f"{split}.arrow")) for split in SPLITS)
    if not len(train):
        raise UserError(
            f"Every conversation of {source} is held out by data.validation_fraction {data.validation_fraction}: "
            "lower it, or give more conversations."
        )
    return SftData(train, validation, counts, folder.name)
