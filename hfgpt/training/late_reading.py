"""Numbers of a training step that are read when the next step comes, so that the host never waits for the device."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class _OnTheirWay:
    step: int
    values: list[torch.Tensor]
    copied: torch.cuda.Event | None


class LateReading:
    """Takes small tensors of a step and hands them back as numbers when the next step has come.

    `.item()` would stop the host until the device has caught up. A copy into pinned memory does not, and is there
    when the next step is under way.
    """

    def __init__(self) -> None:
        self._pending: _OnTheirWay | None = None

    def take(self, step: int, *values: torch.Tensor) -> None:
        """Send the `values` of `step` on their way; what becomes of the tensors later changes nothing."""
        device = values[0].device
        if device.type != "cuda":
            self._pending = _OnTheirWay(step, [value.detach().clone() for value in values], None)
            return
        copies = [torch.empty(value.shape, dtype=value.dtype, pin_memory=True) for value in values]
        for copy, value in zip(copies, values, strict=True):
            copy.copy_(value.detach(), non_blocking=True)
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(device))
        self._pending = _OnTheirWay(step, copies, copied)

    def read(self) -> tuple[int, list[torch.Tensor]] | None:
        """The step taken before and its values on the CPU, once each; waits only if they are still on their way."""
        pending, self._pending = self._pending, None
        if pending is None:
            return None
        if pending.copied is not None:
            pending.copied.synchronize()
        return pending.step, pending.values
