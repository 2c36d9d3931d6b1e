"""A run that is told to end: SIGTERM or SIGINT, to one process or to all, saves at the next step's end and stops every
process there; the same command goes on. A second signal stops at once."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerCallback, TrainingArguments

from hfgpt.training.late_reading import LateReading

SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Slurm signals every process of a step, and a launcher among them hands the signal on: what arrives twice within this
# time was sent once.
SAME_SIGNAL_SECONDS = 5.0

PARENT = os.getppid()  # when the process began: a launcher may die long before the first step


class StopRequest:
    """Whether this process was told to end, by a signal or by the death of the launcher that started it.

    `accelerate launch` of one process dies of SIGTERM without a word to its child, which sees its parent change.
    """

    def __init__(self, speaks: bool):
        self.speaks = speaks  # one process tells what it will do
        self.signal_name: str | None = None
        self._at = 0.0
        self._before: dict[signal.Signals, object] = {}
        is_launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
        self._launcher = PARENT if is_launched else None

    def listen(self) -> None:
        """Take the signals from now on; in a thread other than the main one, which Python gives none, do nothing."""
        if not self._before and threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in SIGNALS}

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}

    @property
    def cause(self) -> str:
        return self.signal_name or "a signal to another process"

    @property
    def is_made(self) -> bool:
        if self.signal_name is None and self._launcher is not None and os.getppid() != self._launcher:
            self.signal_name = "the end of its launcher"
        return self.signal_name is not None

    def _take(self, number: int, frame) -> None:
        now = time.monotonic()
        if self.signal_name is None:
            self.signal_name, self._at = signal.Signals(number).name, now
            if self.speaks:  # print may stand in the middle of a write to the same stream
                words = f"\nhfgpt: {self.signal_name}: saving after this step; a second signal stops at once.\n"
                os.write(2, words.encode())
        elif now - self._at > SAME_SIGNAL_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class StopWhenTold(TrainerCallback):
    """Has the run saved and stopped at the end of the step during which any of its processes was told to end.

    Before the first step nothing would be lost, so signals keep their usual meaning until then. The processes agree
    by one number that travels to the host while the step runs: nobody waits for it.
    """

    def __init__(self, request: StopRequest):
        self.request = request
        self.has_stopped = False
        self._votes = LateReading()

    def on_step_begin(self, args, state, control, **kwargs):
        self.request.listen()
        if args.world_size > 1:
            vote = torch.full((1,), float(self.request.is_made), device=args.device)
            dist.all_reduce(vote, op=dist.ReduceOp.MAX)
            self._votes.take(state.global_step, vote)

    def on_step_end(self, args, state, control, **kwargs):
        if self._is_agreed(args.world_size):
            self.has_stopped = control.should_save = control.should_training_stop = True

    def is_agreed_now(self, args: TrainingArguments) -> bool:
        """Whether any process has been told to end by now. Waits for all of them."""
        if args.world_size == 1:
            return self.request.is_made
        vote = torch.full((1,), float(self.request.is_made), device=args.device)
        dist.all_reduce(vote, op=dist.ReduceOp.MAX)
        return bool(vote.item())

    def _is_agreed(self, world_size: int) -> bool:
        if world_size == 1:
            return self.request.is_made
        voted = self._votes.read()
        return voted is not None and bool(voted[1][0].item())


class LoadersOutliveSignals(Trainer):
    """A Trainer whose data loaders' processes serve it until it ends them, whatever signal their group is sent.

    torch's own handler would let them die of it, and their death would end the run before its step is done.
    """

    def _get_dataloader(self, *args, **kwargs):
        loader = super()._get_dataloader(*args, **kwargs)
        within = loader.base_dataloader  # accelerate's loader reads from it
        within.worker_init_fn = partial(_begin_worker, within.worker_init_fn)
        return loader


def _begin_worker(begin: Callable[[int], None] | None, worker: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":  # others cannot tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_parent_says, daemon=True).start()
    if begin is not None:
        begin(worker)


def _end_when_parent_says() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
