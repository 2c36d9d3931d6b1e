"""Text -> prepared rows on disk: shards are prepared side by side, restartable and in flat memory, then put together
without copying. The result is cached by what went into it."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from hfgpt.arguments import DataArguments
from hfgpt.cores import available_cores
from hfgpt.data.assembly import assemble
from hfgpt.data.hub_files import download_shards
from hfgpt.data.preparation_plan import PreparationPlan, plan_preparation
from hfgpt.data.prepared import (
    RECORD,
    PreparedData,
    TokenizerIdentity,
    check_fits,
    open_prepared,
    tokenizer_identity,
)
from hfgpt.data.shard_task import complete_blocks, is_shard_complete, prepare_shard
from hfgpt.data.shard_workers import Job, prepare_shards
from hfgpt.errors import UserError

logger = logging.getLogger(__name__)

# Processes take about a second to start; what is done in this time is done without them.
_ALONE_SECONDS = 3.0


def prepare_data(data: DataArguments, tokenizer_folder: Path, output_dir: Path) -> PreparedData:
    """Rows for section `data`, made with the saved tokenizer in `tokenizer_folder`, in `output_dir`/<key>.

    The key is a hash of the text's fingerprints, the tokenizer and every option that decides a row: complete data of
    that key is reused, a killed preparation goes on from its last complete block, and several processes that
    call this at once wait for the one that works. Rows do not depend on `data.num_proc`. With
    `data.tokens_threshold` blocks are taken in the source's order until so many tokens stand in rows. Validation
    rows hold the held-out documents of the smallest content hashes, up to `data.validation_tokens`: a fair sample
    of the whole text. With `data.streaming` only validation rows are made; with `data.prepared` those rows are
    taken as they are.

    Raises UserError for text that cannot be read, a split that comes out empty, and options that cannot be.
    """
    tokenizer_folder, output_dir = Path(tokenizer_folder), Path(output_dir)
    identity = tokenizer_identity(tokenizer_folder)
    if data.prepared:
        return _prepared_before(data, identity)
    plan = plan_preparation(data, tokenizer_folder, identity, output_dir)
    if prepared := open_prepared(plan.folder):
        return prepared
    with preparation_lock(plan):
        if prepared := open_prepared(plan.folder):  # another process made it meanwhile
            return prepared
        (plan.folder / RECORD).unlink(missing_ok=True)
        if data.streaming:
            from hfgpt.data.stream import prepare_validation

            return prepare_validation(plan)
        if plan.settings.max_train_rows is None:  # else files come one by one, as far as they are needed
            download_shards(plan.shards)
        _prepare_missing(plan, data.num_proc or available_cores())
        return assemble(plan)


@contextmanager
def preparation_lock(plan: PreparationPlan) -> Iterator[None]:
    """Held by the one process that prepares this folder; the others wait."""
    plan.folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(plan.folder.with_name(f"{plan.folder.name}.lock"))
    try:
        lock.acquire(timeout=1)
    except Timeout:
        logger.warning("%s is being prepared by another process; waiting for it.", plan.folder)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def prepared_folder(data: DataArguments) -> Path:
    """The local folder of `data.prepared`, downloaded if it names a repo on the Hub."""
    assert data.prepared is not None
    folder = Path(data.prepared).expanduser()
    if folder.exists():
        return folder
    from hfgpt.data.prepared_hub import load_prepared_from_hub

    return Path(load_prepared_from_hub(data.prepared, data.dataset_revision))


def _prepared_before(data: DataArguments, identity: TokenizerIdentity) -> PreparedData:
    """The rows of `data.prepared`: a folder that prepare_data made, or a dataset repo on the Hub."""
    folder = prepared_folder(data)
    prepared = open_prepared(folder)
    if prepared is None:
        raise UserError(
            f"data.prepared: {folder} holds no complete prepared data (its {RECORD}, or a file that it lists, is "
            "missing or damaged); give the folder that `hfgpt data prepare` printed."
        )
    check_fits(prepared, identity, data.max_length)
    return prepared


def _prepare_missing(plan: PreparationPlan, num_proc: int) -> None:
    """Prepares what is not complete: alone for the first seconds, then in `num_proc` processes."""
    # In a log file a line every half minute will do.
    pace = {"delay": 1, "mininterval": 0.5} if sys.stderr.isatty() else {"delay": 30, "mininterval": 30}
    threshold = plan.settings.max_train_rows
    total = threshold * plan.settings.max_length if threshold is not None else None
    done = Completion(plan)
    if done.is_enough:
        return
    with tqdm(desc="preparing", unit=" tokens", unit_scale=True, total=total, **pace) as progress:
        for _ in _work(plan, num_proc, done):
            done.look()
            shards = f"{len(plan.shards) - len(done.missing)} of {len(plan.shards)} shards"
            progress.set_postfix_str(shards, refresh=False)
            progress.update(done.tokens - progress.n)
            if done.is_enough:
                return


def _work(plan: PreparationPlan, num_proc: int, done: "Completion") -> Iterator[None]:
    """Prepares missing shards, yielding whenever something may have been completed."""
    start = time.monotonic()

    def is_time_for_workers() -> bool:
        return min(num_proc, len(done.missing)) > 1 and time.monotonic() - start > _ALONE_SECONDS

    encoder = plan.encoder(num_threads=num_proc)
    for index in list(done.missing):
        for _ in prepare_shard(plan.folder, index, plan.shards[index], encoder.encode, plan.settings):
            yield
            if is_time_for_workers():
                break
        if is_time_for_workers():
            break
    done.look()
    if done.missing:
        num_workers = min(num_proc, len(done.missing))
        encoder.num_threads = num_proc // num_workers
        job = Job(plan.folder, plan.settings, encoder)
        yield from prepare_shards(job, [(index, plan.shards[index]) for index in done.missing], num_workers)


class Completion:
    """What of a plan is complete on disk."""

    def __init__(self, plan: PreparationPlan):
        self.plan = plan
        self.missing = list(range(len(plan.shards)))
        self._rows = [0] * len(plan.shards)
        self._tokens = [0] * len(plan.shards)
        self.look()

    def look(self) -> None:
        """Reads the marks of the shards that were not complete when last looked at."""
        missing = []
        for index in self.missing:
            blocks = list(complete_blocks(self.plan.folder, index, self.plan.settings))
            self._rows[index] = sum(block.train.rows for block in blocks)
            self._tokens[index] = sum(block.train.tokens for block in blocks)
            if not is_shard_complete(blocks, self.plan.settings):
                missing.append(index)
        self.missing = missing

    @property
    def tokens(self) -> int:
        """Training tokens in complete blocks."""
        return sum(self._tokens)

    @property
    def is_enough(self) -> bool:
        """Whether every shard is complete, or the complete blocks before the first gap hold all rows wanted."""
        if not self.missing:
            return True
        limit = self.plan.settings.max_train_rows
        return limit is not None and sum(self._rows[: self.missing[0] + 1]) >= limit
