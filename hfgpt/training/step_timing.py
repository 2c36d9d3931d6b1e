"""Where a training step's time goes: data, forward, backward, optimizer. Reads no clock of the GPU before the GPU
has passed it, so that measuring never makes a step wait."""

import time
from contextlib import ExitStack
from typing import Any

import torch
from transformers import Trainer

PHASES = ("data", "forward", "backward", "optimizer")
PHASE_SECONDS = tuple(f"{phase}_seconds" for phase in PHASES)
MEASURED_STEPS = 8  # after each reading; more would only keep more events alive


class StepTimer:
    """Seconds a step in each phase, of the first few steps after each reading.

    On a GPU a phase's ends are events in its queue, so "data" is what the GPU waited for, not what the CPU did
    meanwhile; elsewhere they are readings of the clock.
    """

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self._marks: list[tuple[str, Any]] = []  # phase that begins, and when
        self._steps: list[list[tuple[str, Any]]] = []  # of whole steps not read yet
        self._is_running = False

    def begin(self, phase: str) -> None:
        """From now on it is `phase`; "data" begins a step."""
        if phase == "data":
            self._is_running = len(self._steps) < MEASURED_STEPS
            self._marks = []
        if self._is_running:
            self._marks.append((phase, self._now()))

    def end_step(self) -> None:
        if self._is_running:
            self._marks.append(("", self._now()))
            self._steps.append(self._marks)
            self._is_running = False

    def read(self) -> dict[str, float]:
        """`data_seconds`, `forward_seconds` ... of a step, and begin anew. Steps that the GPU has not ended yet are
        left out; without any, nothing is returned."""
        ended = [marks for marks in self._steps if not self.on_gpu or marks[-1][1].query()]
        self._steps = []
        seconds = dict.fromkeys(PHASES, 0.0)
        for marks in ended:
            for (phase, start), (_, end) in zip(marks, marks[1:], strict=False):
                seconds[phase] += start.elapsed_time(end) / 1000 if self.on_gpu else end - start
        if not ended:
            return {}
        return {name: seconds[phase] / len(ended) for phase, name in zip(PHASES, PHASE_SECONDS, strict=True)}

    def _now(self) -> Any:
        if not self.on_gpu:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class TimedSteps(Trainer):
    """A Trainer that tells `step_timer` where it is. "forward" includes what a trainer does to its inputs (GRPO's
    generation), "optimizer" the clipping before it."""

    step_timer: StepTimer  # set before `train`

    def get_batch_samples(self, *args, **kwargs):
        self.step_timer.begin("data")
        return super().get_batch_samples(*args, **kwargs)

    def training_step(self, *args, **kwargs):
        self.step_timer.begin("forward")
        loss = super().training_step(*args, **kwargs)
        self.step_timer.begin("optimizer")
        return loss

    def compute_loss_context_manager(self) -> ExitStack:
        """Left between forward and backward, whoever computes the loss."""
        stack = super().compute_loss_context_manager()
        if self.model is not None and self.model.training:
            stack.callback(self.step_timer.begin, "backward")
        return stack
