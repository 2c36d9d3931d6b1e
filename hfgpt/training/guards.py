"""Whether a step's loss and gradient norm are healthy, and what the recipe wants done where they are not.

Arithmetic on numbers that have been read already; hfgpt/training/guarded_steps.py acts on what comes out.
"""

import math
import statistics
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

POLICIES = ("stop", "rollback", "skip", "ignore")  # where several apply, the first of them does

# Fewer steps say nothing about what is usual.
LEAST_STEPS = 32
# The standard deviation of a normal distribution in units of its median absolute deviation.
DEVIATIONS = 1.4826
# Where all losses of a window are about equal, so much of their median still counts as a usual deviation.
LEAST_DEVIATION = 0.01
LARGEST = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Limits:
    """The most that a step's loss and gradient norm may be; infinite while too little is known."""

    loss: float = math.inf
    grad_norm: float = math.inf


@dataclass(frozen=True)
class Fault:
    """A step that is not healthy: `what` ("loss" or "grad_norm") came to `value`, above `limit`; `key` is the recipe's
    key whose `policy` decides."""

    step: int
    key: str
    what: str
    value: float
    limit: float
    policy: str

    def in_words(self) -> str:
        name = {"loss": "the loss", "grad_norm": "the gradient's norm"}[self.what]
        if not math.isfinite(self.value):
            return f"{name} is {self.value} at step {self.step}"
        return f"{name} is {self.value:.4g} at step {self.step}, above its limit of {self.limit:.4g}"

    def as_record(self) -> dict[str, Any]:
        """For metrics.jsonl; JSON has no word for what is not finite."""
        is_finite = math.isfinite(self.value)
        return {
            "step": self.step,
            "what": self.what,
            "value": self.value if is_finite else str(self.value),
            "limit": self.limit if is_finite else None,
            "policy": self.policy,
        }


class Guards:
    """Judges one step after the other by the steps before it.

    `policies` maps nan_policy, loss_spike_policy and grad_norm_policy to what is done: `stop` the run, `skip` the
    update, `rollback` to the last complete checkpoint, `ignore`. A loss is a spike when its robust z-score,
    (loss - median) / (1.4826 x median absolute deviation) over the last `window` steps, is above `zscore`; a gradient
    explodes when its norm is above `norm_factor` times the median. Bad steps count too: less than half of a window
    hardly moves a median, and what stays is the new usual.
    """

    def __init__(self, policies: dict[str, str], *, window: int, zscore: float, norm_factor: float):
        self.policies, self.zscore, self.norm_factor = policies, zscore, norm_factor
        self.losses: deque[float] = deque(maxlen=window)
        self.norms: deque[float] = deque(maxlen=window)
        self.limits = Limits()  # for the step after those judged
        self.skipped_in_a_row = 0
        self.rollbacks = 0
        self.unrecorded: list[dict[str, Any]] = []  # faults that metrics.jsonl does not have yet

    def skip_above(self) -> Limits | None:
        """Above what the next update is to be left out, always finite so that infinity and NaN are not within; None
        where no policy is `skip`."""
        if "skip" not in self.policies.values():
            return None
        limits, p = self.limits, self.policies
        return Limits(
            loss=min(limits.loss if p["loss_spike_policy"] == "skip" else math.inf, LARGEST),
            grad_norm=min(limits.grad_norm if p["grad_norm_policy"] == "skip" else math.inf, LARGEST),
        )

    def judge(self, step: int, loss: float, grad_norm: float | None) -> Fault | None:
        """What is wrong with `step`, counted; None where nothing is, or nothing that is not ignored. `grad_norm` is
        None where float16's scaler has seen that it is not finite, and tries another scale."""
        limits, norm = self.limits, 0.0 if grad_norm is None else grad_norm
        found = [
            ("nan_policy", "loss", loss, math.inf, not math.isfinite(loss)),
            ("nan_policy", "grad_norm", norm, math.inf, not math.isfinite(norm)),
            ("loss_spike_policy", "loss", loss, limits.loss, math.isfinite(loss) and loss > limits.loss),
            ("grad_norm_policy", "grad_norm", norm, limits.grad_norm, math.isfinite(norm) and norm > limits.grad_norm),
        ]
        if math.isfinite(loss):
            self.losses.append(loss)
        if grad_norm is not None and math.isfinite(norm):
            self.norms.append(norm)
        self._set_limits()
        faults = [
            Fault(step, key, what, value, limit, self.policies[key])
            for key, what, value, limit, is_wrong in found
            if is_wrong
        ]
        fault = min(faults, key=lambda fault: POLICIES.index(fault.policy), default=None)
        if fault is None or fault.policy == "ignore":
            self.skipped_in_a_row = 0
            return None
        self.skipped_in_a_row += fault.policy == "skip"
        self.rollbacks += fault.policy == "rollback"
        self.unrecorded.append(fault.as_record())
        return fault

    def take_unrecorded(self) -> list[dict[str, Any]]:
        """The faults since the call before."""
        faults, self.unrecorded = self.unrecorded, []
        return faults

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, in JSON, so that a resumed run judges as one that was never interrupted."""
        return {
            "losses": list(self.losses),
            "norms": list(self.norms),
            "skipped_in_a_row": self.skipped_in_a_row,
            "rollbacks": self.rollbacks,
            "unrecorded": list(self.unrecorded),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.losses = deque(state["losses"], maxlen=self.losses.maxlen)
        self.norms = deque(state["norms"], maxlen=self.norms.maxlen)
        self.skipped_in_a_row, self.rollbacks = state["skipped_in_a_row"], state["rollbacks"]
        self.unrecorded = list(state["unrecorded"])
        self._set_limits()

    def _set_limits(self) -> None:
        """Exact in float32, so that a GPU compares as the host does."""
        self.limits = Limits(
            loss=float(np.float32(_spike_limit(self.losses, self.zscore))),
            grad_norm=float(np.float32(_explosion_limit(self.norms, self.norm_factor))),
        )


def _spike_limit(losses: Collection[float], zscore: float) -> float:
    """The loss whose robust z-score is `zscore`."""
    if len(losses) < LEAST_STEPS:
        return math.inf
    median = statistics.median(losses)
    deviation = DEVIATIONS * statistics.median(abs(loss - median) for loss in losses)
    return median + zscore * max(deviation, LEAST_DEVIATION * abs(median))


def _explosion_limit(norms: Collection[float], factor: float) -> float:
    if len(norms) < LEAST_STEPS:
        return math.inf
    median = statistics.median(norms)
    return factor * median if median > 0 else math.inf  # gradients of nothing (rewards all equal) are no measure
