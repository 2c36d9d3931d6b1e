"""Quantised loading by torchao, on a CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, TorchAoConfig

pytest.importorskip("torchao")


@pytest.fixture
def quantised(model_folder: Path) -> Any:
    from torchao.quantization import Int8WeightOnlyConfig

    return AutoModelForCausalLM.from_pretrained(
        model_folder,
        trust_remote_code=True,
        dtype=torch.float32,
        device_map="cpu",
        quantization_config=TorchAoConfig(Int8WeightOnlyConfig()),
    )


@pytest.fixture
def input_ids(tokenizer: Any, conversations: list) -> torch.Tensor:
    return tokenizer.apply_chat_template(conversations[0], return_dict=True, return_tensors="pt")["input_ids"]


def int8_linears(model: Any) -> set[str]:
    from torchao.utils import TorchAOBaseTensor

    linears = {name: module for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    return {name for name, linear in linears.items() if isinstance(linear.weight, TorchAOBaseTensor)}


@torch.no_grad()
def test_int8_weights_give_nearly_the_same_logits(model, quantised, input_ids) -> None:
    linears = {name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    assert int8_linears(quantised) == linears - {"lm_head"}
    expected, logits = model(input_ids).logits, quantised(input_ids).logits
    error = (logits - expected).norm() / expected.norm()
    assert 0 < error < 0.05


@torch.no_grad()
def test_a_saved_int8_model_is_loaded_as_it_was_and_generates(quantised, input_ids, tmp_path: Path) -> None:
    quantised.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True, device_map="cpu")
    assert int8_linears(again) == int8_linears(quantised)
    assert torch.equal(again(input_ids).logits, quantised(input_ids).logits)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    tokens = again.generate(input_ids, attention_mask=torch.ones_like(input_ids), **settings)
    assert torch.equal(tokens, quantised.generate(input_ids, attention_mask=torch.ones_like(input_ids), **settings))
    assert tokens.shape[1] == input_ids.shape[1] + 8
