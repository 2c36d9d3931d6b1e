"""What vLLM's transformers backend asks of a model, checked without vLLM."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from joining_engine import NAME, JoiningEngine, engine_attention
from transformers import AutoModelForCausalLM
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

SHAPE = {"hidden_size": 48, "num_attention_heads": 4, "vocab_size": 97, "max_position_embeddings": 64}
LLAMA = {"position_embedding_type": "rope", "norm_type": "rmsnorm", "mlp_type": "swiglu", "tie_word_embeddings": False}


@pytest.fixture
def attention():
    """The engine's attention under vLLM's name, as importing vLLM registers its own."""
    ALL_ATTENTION_FUNCTIONS[NAME] = engine_attention
    yield
    del ALL_ATTENTION_FUNCTIONS[NAME]


@pytest.fixture(params=["depth", "llama", "gpt2"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model of 4 layers, all parameters random."""
    from hfgpt import GPTConfig, GPTForCausalLM

    config: Any
    if request.param == "depth":
        switches = {"num_key_value_heads": 2, "sliding_window": 6, "backout": True, "bigram_vocab_size": 0}
        config = GPTConfig.from_depth(4, **SHAPE, **switches)
    else:
        config = GPTConfig(num_hidden_layers=4, **SHAPE, **(LLAMA if request.param == "llama" else {}))
    torch.manual_seed(0)
    model = GPTForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(tmp_path)
    return tmp_path


def test_the_folder_names_a_base_model_that_takes_other_attention(folder: Path) -> None:
    saved = json.loads((folder / "config.json").read_text())
    assert list(saved["auto_map"])[:2] == ["AutoConfig", "AutoModel"]
    assert saved["architectures"] == ["GPTForCausalLM"]
    base = get_class_from_dynamic_module(saved["auto_map"]["AutoModel"], str(folder))
    assert base.is_backend_compatible()
    assert base.config_class.model_type == saved["model_type"]


def test_requests_joined_into_one_row_get_the_logits_that_they_get_alone(folder: Path, attention) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32)
    text = {
        name: torch.randint(97, (20,), generator=torch.Generator().manual_seed(seed)).tolist()
        for seed, name in enumerate("abc")
    }
    engine = JoiningEngine(folder)
    done = dict.fromkeys(text, 0)
    # Two prompts, one of them in two pieces; then one token each while a third prompt comes in.
    for lengths in ({"a": 9, "b": 5}, {"a": 1, "b": 6}, {"c": 8, "b": 1, "a": 1}, {"a": 1, "b": 1, "c": 1}):
        new = {name: text[name][done[name] : done[name] + length] for name, length in lengths.items()}
        logits = engine.step(new)
        for name, length in lengths.items():
            done[name] += length
            with torch.no_grad():
                alone = model(torch.tensor([text[name][: done[name]]])).logits[0, -1]
            torch.testing.assert_close(logits[name], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("switch", [{"bigram_vocab_size": 64}, {"smear": True}])
def test_a_model_that_looks_at_the_token_before_is_refused(switch, attention) -> None:
    from hfgpt import GPTConfig, GPTModel

    config = GPTConfig(num_hidden_layers=1, **SHAPE, **switch)
    config._attn_implementation = NAME
    with pytest.raises(ValueError, match="bigram_vocab_size and smear look; serve this model with hfgpt serve"):
        GPTModel(config)


@torch.no_grad()
def test_a_packed_row_may_be_longer_than_learned_positions_reach() -> None:
    from hfgpt import GPTConfig, GPTForCausalLM

    model = GPTForCausalLM(GPTConfig(num_hidden_layers=2, **SHAPE)).eval()
    documents = torch.randint(97, (3, 40), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(40).repeat(3)[None]
    joined = model(documents.flatten()[None], position_ids=positions).logits[0]
    torch.testing.assert_close(joined, model(documents).logits.flatten(0, 1), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="the input is 120 tokens long but the model's learned positions end at"):
        model(documents.flatten()[None])
