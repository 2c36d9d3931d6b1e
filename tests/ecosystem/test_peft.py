"""LoRA by peft: trained, saved, loaded, merged."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hfgpt.model.configuration_gpt import SOURCE_FILES

peft = pytest.importorskip("peft")


@pytest.fixture
def input_ids(tokenizer: Any, conversations: list) -> torch.Tensor:
    texts = [tokenizer.apply_chat_template(messages, tokenize=False) for messages in conversations]
    return tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")["input_ids"]


@pytest.fixture
def adapted(model: Any, input_ids: torch.Tensor) -> Any:
    """The model with adapters on every linear of its blocks, after a few steps."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(model, config).train()
    learning = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=1e-2)
    losses = []
    for _ in range(20):
        loss = adapted(input_ids=input_ids, labels=input_ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    return adapted.eval()


@torch.no_grad()
def logits_of(model: Any, input_ids: torch.Tensor) -> torch.Tensor:
    return model(input_ids=input_ids).logits


def test_only_adapters_learn_and_the_head_has_none(adapted, model_folder: Path) -> None:
    state = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): value
        for name, value in adapted.state_dict().items()
    }
    before = load_file(model_folder / "model.safetensors")
    assert all(torch.equal(state[name], value) for name, value in before.items())
    adapters = {name.split(".lora_")[0] for name in state if ".lora_" in name}
    assert {name.split(".")[-1] for name in adapters} >= {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj"}
    assert not any("lm_head" in name for name in adapters)


def test_saved_adapters_give_the_same_logits_on_the_base_model(
    adapted, model_folder: Path, input_ids, tmp_path: Path
) -> None:
    expected = logits_of(adapted, input_ids)
    adapted.save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(model_folder, trust_remote_code=True, dtype=torch.float32)
    plain = logits_of(base, input_ids)
    loaded = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert (plain - expected).abs().max() > 0.1
    torch.testing.assert_close(logits_of(loaded, input_ids), expected, rtol=0, atol=1e-6)
    # transformers finds the base model by the adapter's own configuration.
    whole = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True, dtype=torch.float32)
    torch.testing.assert_close(logits_of(whole, input_ids), expected, rtol=0, atol=1e-6)


def test_merged_adapters_leave_a_model_like_any_other(adapted, model_folder: Path, input_ids, tmp_path: Path) -> None:
    expected = logits_of(adapted, input_ids)
    adapted.merge_and_unload().save_pretrained(tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True, dtype=torch.float32)
    torch.testing.assert_close(logits_of(merged, input_ids), expected, rtol=1e-5, atol=1e-5)
    assert load_file(tmp_path / "model.safetensors").keys() == load_file(model_folder / "model.safetensors").keys()
    assert {path.name for path in tmp_path.glob("*.py")} == set(SOURCE_FILES)
