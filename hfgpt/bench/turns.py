"""Sides in processes of their own take turns, so that a noisy machine is fair to all of them: `SideProcess` is the
conductor's end, `Turns` the side's."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from hfgpt.errors import UserError

UNCOUNTED_STEPS = 1  # at the start of each turn: caches are cold, and on a GPU memory is allocated anew


class Turns:
    """Tells a side how many steps it may make, and the conductor how long one of them took, in seconds and in seconds
    of CPU time.

    The GPU is waited for at the two ends of a turn only.
    """

    def __init__(self, connection: Connection, device: torch.device):
        self.connection = connection
        self.on_gpu = device.type == "cuda"
        self._wanted = self._made = 0
        self._began = (0.0, 0.0)

    def start(self) -> bool:
        """Wait for the next turn; False where there is none."""
        kind, steps = self.connection.recv()
        self._made, self._wanted = 0, steps + UNCOUNTED_STEPS
        return kind == "train"

    def step_done(self) -> bool:
        """To be called after each optimizer step; waits where the turn is over. False ends training."""
        self._made += 1
        if self._made == UNCOUNTED_STEPS:
            self._began = self._now()
        if self._made < self._wanted:
            return True
        spent = (end - start for start, end in zip(self._began, self._now(), strict=True))
        self.connection.send(tuple(seconds / (self._wanted - UNCOUNTED_STEPS) for seconds in spent))
        if self.on_gpu:
            torch.cuda.empty_cache()  # the others need room
        return self.start()

    def _now(self) -> tuple[float, float]:
        """The clock, and the CPU time of this process with its threads."""
        if self.on_gpu:
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()


class SideProcess:
    """One side, in a process that `main(connection, *arguments)` runs and that answers each order with one message."""

    def __init__(self, name: str, main: Callable[..., None], *arguments: Any):
        self.name = name
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=main, args=(theirs, *arguments), daemon=False)
        self.process.start()
        theirs.close()

    def ask(self, kind: str, number: int = 0) -> Any:
        """Give an order and wait for its answer. Raises UserError where the side cannot go on."""
        try:
            self.connection.send((kind, number))
            answer = self.connection.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            self.process.join()
            raise UserError(
                f"the side {self.name} ended with exit code {self.process.exitcode}, as where memory runs out: lower "
                "per_device_train_batch_size, or leave sides out of --vs."
            ) from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        """Take the process down, whatever it is doing."""
        self.connection.close()
        self.process.terminate()
        self.process.join()
