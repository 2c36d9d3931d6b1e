"""Whether all processes of a run are at one step and hold the same weights, told by two numbers of each."""

import torch
from torch import nn
from torch.distributed.tensor import DTensor

# Integers as wide as the floats whose bits they take.
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def step_and_checksum(step: int, model: nn.Module) -> torch.Tensor:
    """(1, 2) int64 on the model's device: the step, and a sum of the weights' bits, which one flipped bit changes.

    Shards of FSDP2 are left out, since no other process holds the same. Integers wrap around, so the order in which
    they are summed changes nothing.
    """
    weights = [p.detach() for p in model.parameters() if not isinstance(p, DTensor) and p.numel()]
    device = next(model.parameters()).device
    checksum = torch.zeros((), dtype=torch.int64, device=device)
    for place, weight in enumerate(weights, start=1):
        checksum += place * weight.view(_INTEGERS[weight.element_size()]).sum(dtype=torch.int64)
    return torch.stack([torch.full_like(checksum, step), checksum]).view(1, 2)


def disagreement(steps_and_checksums: torch.Tensor) -> str | None:
    """What is wrong in one sentence where a row of (processes, 2) differs from the first; None where none does."""
    first, *others = steps_and_checksums.tolist()
    for what, column in (("is at another step", 0), ("holds other weights", 1)):
        apart = [process for process, row in enumerate(others, start=1) if row[column] != first[column]]
        if apart:
            which = "process" if len(apart) == 1 else "each of the processes"
            return (
                f"{which} {', '.join(map(str, apart))} {what} than process 0 at step {first[0]}: go on from the last "
                "checkpoint by the same command; if it comes again, look for a faulty GPU, or for nodes whose "
                "output_dir holds other checkpoints."
            )
    return None
