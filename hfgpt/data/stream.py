"""Rows packed while training, for text that is not to be prepared on disk: the blocks of the prepared road, shards in
a new order each epoch, rows shuffled within windows. Which row comes when is a pure function of the seed."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from hfgpt.arguments import DataArguments
from hfgpt.data.assembly import SourceCounts, check_documents, write_prepared
from hfgpt.data.blocks import HeldOutDocument, content_hash, shard_blocks, utf8
from hfgpt.data.order import row_order
from hfgpt.data.preparation_plan import PreparationPlan, plan_preparation
from hfgpt.data.prepared import PreparedData, tokenizer_identity
from hfgpt.data.splitting import is_validation
from hfgpt.errors import UserError

# Windows whose beginnings are kept, so that a state can be given for rows before those that a loader fetched ahead.
_REMEMBERED_WINDOWS = 256


@dataclass(frozen=True)
class _Place:
    """Where a window begins: at row `row` of the block that begins with `document` of the `shard`-th shard in the
    order of `epoch`. `first_row` rows of the run came before it."""

    first_row: int
    epoch: int
    shard: int
    document: int
    row: int


class StreamedRows(IterableDataset):
    """`total_rows` packed rows (None: without end), each {"input_ids": (max_length,)}, from section `data`.

    The first one comes when a block is packed: a smaller `data.shard_size` starts sooner. Held-out documents never
    come up. A window of `data.shuffle_window` rows (an epoch's last may be shorter) is
    shuffled as a whole while a thread tokenizes the next one, so the loader needs no process of its own:
    `num_workers` 0 or 1. In distributed training one process reads and hands the rows out, which is
    accelerate's default for streams. Raises UserError if an epoch has not a single row.
    """

    def __init__(self, data: DataArguments, tokenizer_folder: Path, total_rows: int | None = None):
        identity = tokenizer_identity(tokenizer_folder)
        self.plan = plan_preparation(data, tokenizer_folder, identity, output_dir=Path())
        self.encoder = self.plan.encoder(num_threads=data.num_proc or 1)
        self.seed = data.seed
        self.window = max(data.shuffle_window, 1)
        self.total_rows = total_rows
        self._start = _Place(0, 0, 0, 0, 0)
        self._position = 0
        # Shared memory: a loader's worker process writes them, the trainer's process reads them.
        self._given_out = torch.zeros(1, dtype=torch.int64).share_memory_()
        self._windows = torch.full((_REMEMBERED_WINDOWS, 5), -1, dtype=torch.int64).share_memory_()

    def state_dict(self, position: int | None = None) -> dict[str, int]:
        """From where row `position` of the run (by default the first one not given out yet) is found again.

        Loaders fetch rows ahead: what a training step has consumed is steps x rows per step, to be given here.
        """
        position = int(self._given_out) if position is None else position
        places = [_Place(*row) for row in self._windows.tolist() if 0 <= row[0] <= position]
        place = max([self._start, *places], key=lambda place: place.first_row)
        if place.first_row > position:
            place = _Place(0, 0, 0, 0, 0)
        names = ("first_row", "epoch", "shard", "document", "row")
        return {"position": position, **dict(zip(names, astuple(place), strict=True))}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """The next iteration begins with row `state["position"]`, exactly as it would have come."""
        state = dict(state)
        self._position = state.pop("position")
        self._start = _Place(**state)
        self._given_out[0] = self._position
        self._windows.fill_(-1)

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        worker = get_worker_info()
        if worker is not None and worker.num_workers > 1:
            raise UserError(
                f"dataloader_num_workers is {worker.num_workers}, but with data.streaming rows are read in one place, "
                "and ahead of time: set it to 0 or 1."
            )
        position, end = self._position, self.total_rows
        stop = threading.Event()
        windows = self._read_windows(self._start, stop)
        with ThreadPoolExecutor(1) as reader:
            try:
                reading = reader.submit(next, windows)
                for number in count():
                    place, rows = reading.result()
                    self._windows[number % _REMEMBERED_WINDOWS] = torch.tensor(astuple(place))
                    if end is None or place.first_row + len(rows) < end:
                        reading = reader.submit(next, windows)
                    for row in rows[position - place.first_row :]:
                        if position == end:
                            return
                        position += 1
                        self._given_out[0] = position
                        yield {"input_ids": row}
                    if position == end:
                        return
            finally:
                stop.set()

    def _read_windows(self, place: _Place, stop: threading.Event) -> Iterator[tuple[_Place, np.ndarray]]:
        """Shuffled windows from `place` on, without end."""
        shards = self.plan.shards
        encode = _stoppable(self.encoder.encode, stop)
        while True:
            order = row_order(np.arange(len(shards)) + place.epoch * len(shards), len(shards), self.seed)
            start, rows, num_rows = place, [], 0
            for shard in range(place.shard, len(shards)):
                first_document = place.document if shard == place.shard else 0
                for block in shard_blocks(shards[order[shard]], encode, self.plan.settings, first_document):
                    at_place = (shard, block.first_document) == (place.shard, place.document)
                    offset = place.row if at_place else 0
                    while offset < len(block.train.rows):
                        taken = block.train.rows[offset : offset + self.window - num_rows]
                        rows.append(taken)
                        offset += len(taken)
                        num_rows += len(taken)
                        if num_rows == self.window:
                            yield start, self._shuffle(start, rows)
                            first_row = start.first_row + num_rows
                            start = _Place(first_row, place.epoch, shard, block.first_document, offset)
                            rows, num_rows = [], 0
            if rows:
                yield start, self._shuffle(start, rows)
            if start.first_row + num_rows == 0:
                raise UserError(
                    f"The text in data gives no row of data.max_length {self.plan.settings.max_length}, in "
                    f"{len(shards)} shards that are packed one by one: lower data.max_length, or bring more text."
                )
            place = _Place(start.first_row + num_rows, place.epoch + 1, 0, 0, 0)

    def _shuffle(self, start: _Place, rows: list[np.ndarray]) -> np.ndarray:
        window = np.concatenate(rows)
        positions = np.arange(len(window), dtype=np.uint64) + np.uint64(start.first_row * len(window))
        return window[row_order(positions, len(window), self.seed)]


def prepare_validation(plan: PreparationPlan) -> PreparedData:
    """Validation rows for a stream: the first held-out documents, in the source's order, that together hold
    `validation_tokens` tokens. Text is read only as far as they reach. Raises UserError if they make no row."""
    settings = plan.settings
    counts = SourceCounts()
    held_out: list[HeldOutDocument] = []
    tokens = 0
    if settings.validation_fraction > 0:
        encode = plan.encoder().encode
        for text in _held_out_texts(plan, counts):
            (ids,) = encode([text])
            held_out.append(HeldOutDocument(content_hash(text), len(utf8(text)), ids.astype(settings.token_type)))
            tokens += len(ids) + 1
            if tokens >= settings.validation_tokens:
                break
        else:
            check_documents(plan, counts)
    return write_prepared(plan, held_out, counts, train=None, train_files={})


def _held_out_texts(plan: PreparationPlan, counts: SourceCounts) -> Iterator[str]:
    for shard in plan.shards:
        for text in shard.documents(counts.left_out):
            if len(text) < plan.settings.min_document_chars:
                counts.too_short += 1
                continue
            counts.documents += 1
            if is_validation(text, plan.settings.validation_fraction):
                counts.held_out_documents += 1
                yield text


def _stoppable(
    encode: Callable[[list[str]], list[np.ndarray]], stop: threading.Event
) -> Callable[[list[str]], list[np.ndarray]]:
    """Encoding that fails once the reader is not wanted any more, so that no program waits for it at its end."""

    def encode_unless_stopped(texts: list[str]) -> list[np.ndarray]:
        if stop.is_set():
            raise InterruptedError("the stream was closed")
        return encode(texts)

    return encode_unless_stopped
