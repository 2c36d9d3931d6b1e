"""float8 is for the large linears of the blocks, and for GPUs that have it."""

import pytest
import torch
from torch import nn

from hfgpt import GPTConfig, GPTForCausalLM
from hfgpt.errors import UserError
from hfgpt.training.fp8 import is_large_linear, use_fp8

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def small_model() -> GPTForCausalLM:
    torch.manual_seed(0)
    return GPTForCausalLM(GPTConfig.from_depth(2, vocab_size=320, max_position_embeddings=64))


def test_only_the_blocks_linears_are_chosen() -> None:
    chosen = [name for name, module in small_model().named_modules() if is_large_linear(module, name)]
    names = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
    assert chosen == [f"model.layers.{layer}.{name}" for layer in range(2) for name in names]
    assert not is_large_linear(nn.Linear(64, 24), "model.layers.0.mlp.up_proj")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_without_a_gpu_it_is_refused() -> None:
    with pytest.raises(UserError, match="fp8 needs a GPU that multiplies in float8"):
        use_fp8(small_model())


@pytest.mark.gpu
@CUDA
def test_a_float8_step_is_near_the_bfloat16_one() -> None:
    pytest.importorskip("torchao")
    input_ids = torch.randint(320, (8, 64), generator=torch.Generator().manual_seed(1)).cuda()
    losses = []
    for convert in (False, True):
        model = small_model().cuda().train()
        names = set(model.state_dict())
        if convert:
            assert use_fp8(model) == 12
        assert set(model.state_dict()) == names
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(20):
            with torch.autocast("cuda", dtype=torch.bfloat16):
                loss = model(input_ids, labels=input_ids).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
