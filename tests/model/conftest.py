"""Small models of both families, and the markers that transformers' own model tests carry."""

from collections.abc import Callable
from typing import Any

import pytest

FAMILIES = ("gpt2", "depth")


def pytest_configure(config: pytest.Config) -> None:
    for name in (
        "accelerate_tests",
        "flash_attn_test",
        "flash_attn_3_test",
        "flash_attn_4_test",
        "torch_compile_test",
    ):
        config.addinivalue_line("markers", f"{name}: used by transformers' own model tests")


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def small_config() -> Callable[..., Any]:
    """`small_config(family, **overrides)`: 3 layers, 32 wide, 97 tokens, the depth series with a window of 6 and with
    the switches that its own default leaves off."""
    from hfgpt import GPTConfig

    def build(family: str, **overrides: Any) -> Any:
        shape = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 97}
        shape |= {"max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
        if family == "depth":
            shape |= {"num_key_value_heads": 2, "sliding_window": 6, "smear": True, "backout": True}
            return GPTConfig.from_depth(3, **{**shape, **overrides})
        return GPTConfig.gpt2("gpt2", **{**shape, **overrides})

    return build


@pytest.fixture
def small_model(small_config: Callable[..., Any]) -> Callable[..., Any]:
    """`small_model(family, **overrides)` in eval mode, all parameters random: fresh, half of them are zero."""
    import torch

    from hfgpt import GPTForCausalLM

    def build(family: str, attn_implementation: str = "sdpa", **overrides: Any) -> Any:
        config = small_config(family, attn_implementation=attn_implementation, **overrides)
        torch.manual_seed(0)
        model = GPTForCausalLM(config).eval()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                std = 0.5 if "embed" in name or "scalar" in name else 0.15
                parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=std)
        return model

    return build
