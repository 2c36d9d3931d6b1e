"""Sees at once when a loss is no longer finite, without making the device wait."""

import math

import torch


class LossWatch:
    """Takes the loss of every forward pass and hands back the one before it.

    `.item()` on a loss would stop the host until the device has caught up. A copy into pinned memory does not, and is
    there when the next loss comes.
    """

    def __init__(self) -> None:
        self._pending: tuple[int, torch.Tensor, torch.cuda.Event | None] | None = None

    def not_finite(self, step: int, loss: torch.Tensor) -> tuple[int, float] | None:
        """Take `loss` () of `step`; the step and loss taken before, if that was not finite."""
        before, self._pending = self._pending, self._copy(step, loss.detach())
        if before is None:
            return None
        then, value, copied = before
        if copied is not None:
            copied.synchronize()
        number = value.item()
        return None if math.isfinite(number) else (then, number)

    def _copy(self, step: int, loss: torch.Tensor) -> tuple[int, torch.Tensor, torch.cuda.Event | None]:
        if loss.device.type != "cuda":
            return step, loss.clone(), None
        value = torch.empty((), dtype=loss.dtype, pin_memory=True)
        value.copy_(loss, non_blocking=True)
        copied = torch.cuda.Event()
        copied.record()
        return step, value, copied
