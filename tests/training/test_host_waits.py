"""No step asks the device for a number: on a GPU that would stop the host until the device has caught up."""

import traceback
from collections import Counter

import torch
from guarded_run import StepRows, guarded_trainer
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
# What .item(), float(tensor), `if tensor:`, indexing by a mask and torch.equal come down to.
ASKS_THE_DEVICE = {
    *(ATEN._local_scalar_dense.default, ATEN.is_nonzero.default, ATEN.nonzero.default),
    *(ATEN.equal.default, ATEN.masked_select.default),
}


class DeviceReads(TorchDispatchMode):
    """Counts what asks the device, by the innermost function of a trainer that did so."""

    def __init__(self) -> None:
        super().__init__()
        self.by_function: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation in ASKS_THE_DEVICE:
            packages = ("hfgpt", "transformers", "accelerate")
            frames = [f.name for f in traceback.extract_stack() if any(f"/{name}/" in f.filename for name in packages)]
            self.by_function[frames[-1]] += 1
        return operation(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(tmp_path) -> None:
    steps = 40
    trainer = guarded_trainer(tmp_path, StepRows(steps), layers=2, max_steps=steps, logging_steps=steps)
    with DeviceReads() as reads:
        trainer.train()
    each_step = {name for name, count in reads.by_function.items() if count >= steps / 4}
    assert each_step == {"_leave_out"}  # whose question goes to CPU tensors alone: a GPU's optimizer takes `found_inf`
