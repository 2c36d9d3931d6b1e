"""`ordered_map`: one function over many items in several processes. Each is a fresh Python that imports nothing of the
caller's program, for the reasons that shard_workers.py gives.

A worker reads the pickled function and then items from its standard input and answers each; when that input ends,
because the parent closed it or died, so does the worker.
"""

import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from hfgpt.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(function: Callable[[Item], Result], items: Iterable[Item], num_workers: int) -> Iterator[Result]:
    """`function` of each item, in the items' order, worked out in `num_workers` processes. Function, items and results
    are pickled; two items a process are taken ahead, no more. All work stops when the caller closes the generator.

    Raises UserError as a worker did, RuntimeError with a worker's traceback.
    """
    free: queue.SimpleQueue[_Worker] = queue.SimpleQueue()

    def call(item: Item) -> Result:
        worker = free.get()
        try:
            return worker.call(item)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(num_workers) as pool, _workers(function, num_workers) as started:
        for worker in started:
            free.put(worker)
        under_way: deque[Future[Result]] = deque()
        try:
            for item in items:
                under_way.append(pool.submit(call, item))
                if len(under_way) == 2 * num_workers:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()
        finally:
            for future in under_way:
                future.cancel()


class _Worker:
    def __init__(self, function: Callable):
        package_root = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
        threads = {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self._first: Callable | None = function
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hfgpt.data.worker_processes"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path} | threads,
        )

    def call(self, item: Any) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            if self._first is not None:  # not before, or processes would wait for each other to start
                pickle.dump(self._first, self.process.stdin)
                self._first = None
            pickle.dump(item, self.process.stdin)
            self.process.stdin.flush()
            error, result = pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError):
            raise RuntimeError(
                f"a worker process ended with code {self.process.wait()} (-9: out of memory?)"
            ) from None
        if error == "user":
            raise UserError(result)
        if error:
            raise RuntimeError(f"a worker process failed:\n{result}")
        return result


@contextmanager
def _workers(function: Callable, num_workers: int) -> Iterator[list[_Worker]]:
    started: list[_Worker] = []
    try:
        for _ in range(num_workers):
            started.append(_Worker(function))
        yield started
    finally:
        for worker in started:
            worker.process.kill()  # ends a thread that waits for its answer, too
            worker.process.wait()
            for pipe in (worker.process.stdin, worker.process.stdout):
                assert pipe is not None
                with suppress(OSError):  # what a killed worker was being sent
                    pipe.close()


def _work() -> None:
    """The worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes to standard error
    function = pickle.load(sys.stdin.buffer)
    while True:
        try:
            item = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = ("", function(item))
        except UserError as error:
            answer = ("user", str(error))
        except Exception:
            answer = ("ours", traceback.format_exc())
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    _work()
