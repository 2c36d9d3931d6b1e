"""Processes that prepare shards side by side. Each is a fresh Python that imports nothing of the caller's program:
to fork one that runs torch, CUDA or download threads can hang, and multiprocessing's spawn would import the caller's
script, torch and all, in each process.

A worker reads pickled shards from its standard input and answers each; when that input ends, because the parent
closed it or died, the worker ends at once, whatever it is doing.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hfgpt.data.blocks import BlockSettings
from hfgpt.data.bulk_encoding import BulkEncoder
from hfgpt.data.chat_documents import ChatEncoder
from hfgpt.data.documents import SourceShard
from hfgpt.data.shard_task import prepare_shard
from hfgpt.errors import UserError

_TICK_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """What all workers of one preparation share."""

    folder: Path
    settings: BlockSettings
    encoder: BulkEncoder | ChatEncoder  # pickled, it need not find out anew how to encode


def prepare_shards(job: Job, shards: Iterable[tuple[int, SourceShard]], num_workers: int) -> Iterator[None]:
    """Prepares numbered shards, in their order, in `num_workers` processes. Yields every half second or so, so that
    the caller can look at what is complete, and stops all work when the caller closes the generator.

    Raises UserError as a worker did, RuntimeError with a worker's traceback.
    """
    remaining = iter(shards)
    workers: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    with _workers(job, num_workers) as started, ThreadPoolExecutor(num_workers) as pool:
        for worker in started:
            workers.put(worker)

        def prepare(task: tuple[int, SourceShard]) -> None:
            worker = workers.get()
            worker.prepare(*task)
            workers.put(worker)

        running: set[Future] = set()
        try:
            while True:
                while len(running) < num_workers and (task := next(remaining, None)) is not None:
                    running.add(pool.submit(prepare, task))
                if not running:
                    return
                done, running = wait(running, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    future.result()
                yield
        finally:
            for worker in started:
                worker.process.kill()  # its half-written files are never read; ends the pool's threads too


class _Worker:
    def __init__(self, job: Job):
        package_root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        # No threads but the encoder's own, or num_workers x cores of them would stand in each other's way.
        threads = {"RAYON_NUM_THREADS": str(job.encoder.num_threads), "OMP_NUM_THREADS": "1"}
        self._job: Job | None = job
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hfgpt.data.shard_workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path} | threads,
        )

    def prepare(self, index: int, shard: SourceShard) -> None:
        assert self.process.stdout is not None
        try:
            if self._job is not None:  # not before, or processes would wait for each other to start
                self._send(self._job)
                self._job = None
            self._send((index, shard))
            error, details = pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            code = self.process.wait()
            raise RuntimeError(
                f"a process preparing {shard.name} ended with code {code} (-9: out of memory?)"
            ) from None
        if error == "user":
            raise UserError(details)
        if error:
            raise RuntimeError(f"preparing {shard.name} failed in a worker:\n{details}")

    def _send(self, value: object) -> None:
        assert self.process.stdin is not None
        pickle.dump(value, self.process.stdin)
        self.process.stdin.flush()


@contextmanager
def _workers(job: Job, num_workers: int) -> Iterator[list[_Worker]]:
    started: list[_Worker] = []
    try:
        for _ in range(num_workers):
            started.append(_Worker(job))
        yield started
    finally:
        for worker in started:
            worker.process.kill()
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                assert pipe is not None
                pipe.close()


def _work() -> None:
    """The worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    tasks: queue.SimpleQueue[tuple[int, SourceShard]] = queue.SimpleQueue()
    job: Job = pickle.load(sys.stdin.buffer)

    def receive() -> None:
        try:
            while True:
                tasks.put(pickle.load(sys.stdin.buffer))
        except EOFError:
            os._exit(0)

    threading.Thread(target=receive, daemon=True).start()
    while True:
        index, shard = tasks.get()
        try:
            for _ in prepare_shard(job.folder, index, shard, job.encoder.encode, job.settings):
                pass
            answer = ("", "")
        except UserError as error:
            answer = ("user", str(error))
        except Exception:
            answer = ("ours", traceback.format_exc())
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _work()
