"""Matrices laid out for decoding multiply as the model's own do."""

import platform

import pytest
import torch
from torch import nn

from hfgpt.chat.gpt_layers import joined

HAS_ONEDNN = torch.backends.mkldnn.is_available() and platform.machine() in ("x86_64", "AMD64")


@torch.inference_mode()
@pytest.mark.parametrize("packs", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_joined_matrices_give_what_each_gives_alone(packs, bias, dtype) -> None:
    torch.manual_seed(0)
    linears = [nn.Linear(48, size, bias=bias, dtype=dtype) for size in (32, 80, 1)]
    together = joined(linears, packs=packs)
    for tokens in (1, 2, 16, 200):
        inputs = torch.randn(tokens, 2, 48, dtype=dtype)[:, 1]  # rows apart in memory, as the last tokens of prompts
        expected = torch.cat([linear(inputs) for linear in linears], dim=-1)
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        assert torch.allclose(together(inputs), expected, atol=tolerance)


@torch.no_grad()
@pytest.mark.skipif(not HAS_ONEDNN, reason="this torch has no oneDNN for x86")
def test_float32_matrices_are_laid_out_for_onednn_where_it_is_present() -> None:
    assert "mkldnn" in str(joined([nn.Linear(8, 8)]).func)  # type: ignore[attr-defined]
    assert "mkldnn" not in str(joined([nn.Linear(8, 8)], packs=False).func)  # type: ignore[attr-defined]
    assert "mkldnn" not in str(joined([nn.Linear(8, 8, dtype=torch.bfloat16)]).func)  # type: ignore[attr-defined]
