"""One flipped bit changes a checksum, and whoever differs from the first process is named."""

import torch

from hfgpt.training.rank_check import disagreement, step_and_checksum


def test_a_checksum_sees_one_bit_and_that_two_tensors_changed_places():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False))
    model.half()[1].float()
    before = step_and_checksum(7, model)
    assert before.tolist() == step_and_checksum(7, model).tolist() and before[0, 0] == 7
    model[1].weight.data.view(torch.int32)[3, 3] ^= 1
    assert abs(step_and_checksum(7, model)[0, 1] - before[0, 1]) == 2  # its place is the second
    model[1].weight.data.view(torch.int32)[3, 3] ^= 1
    model.float()
    swapped = torch.nn.Sequential(model[1], model[0])
    assert step_and_checksum(7, swapped)[0, 1] != step_and_checksum(7, model)[0, 1]


def test_who_differs_is_named_with_what():
    assert disagreement(torch.tensor([[5, 99]] * 3)) is None
    assert "each of the processes 1, 2 holds other weights than process 0 at step 5" in disagreement(
        torch.tensor([[5, 99], [5, 98], [5, 97]])
    )
    assert "process 2 is at another step" in disagreement(torch.tensor([[5, 99], [5, 99], [6, 99]]))
