"""A loss that is not finite is seen one step later, with the step it belongs to."""

import math

import pytest
import torch

from hfgpt.training.loss_watch import LossWatch

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])])
def test_the_loss_before_is_judged(device) -> None:
    watch = LossWatch()
    losses = torch.tensor([2.0, math.inf, 1.0, math.nan, 1.0], device=device)
    found = [watch.not_finite(step, loss) for step, loss in enumerate(losses, start=1)]
    assert found[:4] == [None, None, (2, math.inf), None]
    assert found[4][0] == 4
    assert math.isnan(found[4][1])


def test_what_becomes_of_a_loss_later_changes_nothing() -> None:
    watch = LossWatch()
    loss = torch.tensor(2.0)
    watch.not_finite(1, loss)
    loss.fill_(math.nan)
    assert watch.not_finite(2, torch.tensor(1.0)) is None
