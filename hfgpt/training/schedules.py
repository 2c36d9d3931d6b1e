"""Learning-rate schedules that transformers lacks or starts wrongly; every other name goes to transformers."""

from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


def warmup_stable_decay(
    optimizer: Optimizer, *, warmup_steps: int, decay_steps: int, total_steps: int, min_lr_ratio: float = 0.0
) -> LambdaLR:
    """Linear warmup, constant, linear decay (MiniCPM, arXiv:2404.06395), as a factor on each group's own rate.

    Unlike transformers' schedule the first step has a rate above zero, (1 / warmup_steps) of the full one.
    """
    shape = partial(
        _factor, warmup_steps=warmup_steps, decay_steps=decay_steps, total_steps=total_steps, min_lr_ratio=min_lr_ratio
    )
    return LambdaLR(optimizer, shape)


def _factor(step: int, warmup_steps: int, decay_steps: int, total_steps: int, min_lr_ratio: float) -> float:
    factor = 1.0
    if step < warmup_steps:
        factor = (step + 1) / warmup_steps
    remaining = total_steps - step
    if remaining < decay_steps:
        factor = min(factor, min_lr_ratio + (1 - min_lr_ratio) * max(remaining, 0) / decay_steps)
    return factor
