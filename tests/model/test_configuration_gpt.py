"""GPTConfig: presets, refusals, round trips, and plans for serving engines."""

import dataclasses

import pytest
from transformers import AutoConfig

from hfgpt import GPTConfig
from hfgpt.arguments import ModelArguments
from hfgpt.model.architecture import Architecture


def test_every_switch_of_a_recipe_is_a_key_of_the_configuration() -> None:
    recipe = {field.name for field in dataclasses.fields(ModelArguments)} - {"depth", "preset", "attn_implementation"}
    owned_elsewhere = {"vocab_size", "max_position_embeddings"}
    assert recipe == {field.name for field in dataclasses.fields(Architecture)} - owned_elsewhere


def test_defaults_are_gpt2_small() -> None:
    differing = {"bos_token_id", "eos_token_id"}
    default, preset = GPTConfig().to_dict(), GPTConfig.gpt2("gpt2").to_dict()
    assert {key for key in default if default[key] != preset.get(key)} <= differing
    assert (preset["bos_token_id"], preset["eos_token_id"]) == (50256, 50256)


def test_a_depth_config_survives_saving_and_the_auto_class(tmp_path) -> None:
    config = GPTConfig.from_depth(4, eos_token_id=[5, 6], sliding_window=64, attention_dropout=0.1)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, GPTConfig)
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert loaded.eos_token_id == [5, 6]


def test_impossible_values_are_refused_from_a_file_too(tmp_path) -> None:
    config = GPTConfig.from_depth(4)
    config.save_pretrained(tmp_path)
    broken = (tmp_path / "config.json").read_text().replace('"mlp_type": "relu2"', '"mlp_type": "relu3"')
    (tmp_path / "config.json").write_text(broken)
    with pytest.raises(ValueError, match="mlp_type must be one of gelu, relu2, swiglu"):
        GPTConfig.from_pretrained(tmp_path)


def test_an_unknown_override_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="num_hiden_layers is not a key of GPTConfig; did you mean num_hidden_layers"):
        GPTConfig.from_depth(4, num_hiden_layers=2)
    with pytest.raises(ValueError, match="pad_token is not a key of GPTConfig; did you mean pad_token_id"):
        GPTConfig.gpt2("gpt2", pad_token=2)


def test_plans_are_offered_only_where_the_model_can_be_cut() -> None:
    llama_like = {"position_embedding_type": "rope", "norm_type": "rmsnorm", "mlp_type": "swiglu"}
    config = GPTConfig(**llama_like)
    assert config.base_model_tp_plan["layers.*.mlp.gate_proj"] == "colwise"
    assert config.base_model_tp_plan["layers.*.self_attn.o_proj"] == "rowwise"
    assert list(config.base_model_pp_plan) == ["embed_tokens", "layers", "norm"]
    assert GPTConfig().base_model_pp_plan is None  # a later stage would add learned positions again
    assert "layers.*.mlp.gate_proj" not in GPTConfig().base_model_tp_plan
    assert GPTConfig.from_depth(4).base_model_tp_plan is None
    assert GPTConfig(linear_type="kan").base_model_tp_plan is None
    assert "base_model_tp_plan" not in config.to_dict()
