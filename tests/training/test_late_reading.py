"""A step's numbers come back when the next step does, once, as they were when they were taken."""

import math

import pytest
import torch

from hfgpt.training.late_reading import LateReading

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, CUDA])])
def test_what_was_taken_comes_back_once_and_whole(device) -> None:
    late = LateReading()
    assert late.read() is None
    late.take(7, torch.tensor([2.5, math.inf], device=device), torch.tensor([[2**40, -1]], device=device))
    read = late.read()
    assert read is not None
    step, (health, sums) = read
    assert (step, health.tolist(), sums.tolist()) == (7, [2.5, math.inf], [[2**40, -1]])
    assert late.read() is None


def test_what_becomes_of_a_loss_later_changes_nothing() -> None:
    late = LateReading()
    loss = torch.tensor(2.0)
    late.take(1, loss)
    loss.fill_(math.nan)
    read = late.read()
    assert read is not None and read[1][0].item() == 2.0
