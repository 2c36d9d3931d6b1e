"""Models of GPT-2, NanoChat, Llama and Qwen3, built by transformers' own classes: in, and out again."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    NanoChatConfig,
    OPTConfig,
    Qwen3Config,
)

from hfgpt import GPTConfig, GPTForCausalLM, UserError
from hfgpt.arguments import ModelArguments
from hfgpt.cli import main as hfgpt
from hfgpt.conversion.conversion import FAMILIES, exported, imported, prove_equal, with_weights
from hfgpt.conversion.export_model import main as export_model
from hfgpt.conversion.import_model import main as import_model
from hfgpt.model.architecture import architecture_keys
from hfgpt.model.from_recipe import architecture_of

TEXT = "A fox don't jump 12345 times;  over\n\nthe 世界 naïve."
SHAPE = {"vocab_size": 320, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
SHAPE |= {"max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 0}
GPT2 = {"vocab_size": 320, "n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 4}
GPT2 |= {"bos_token_id": 0, "eos_token_id": 0}
ROTARY = SHAPE | {"intermediate_size": 48, "num_key_value_heads": 2}
OTHER_BASE = {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}
CONFIGS = {
    "gpt2": GPT2Config(**GPT2),
    "gpt2, unusual": GPT2Config(
        **GPT2,
        n_inner=40,
        activation_function="relu2",
        scale_attn_weights=False,
        tie_word_embeddings=False,
        layer_norm_epsilon=1e-3,
    ),
    "nanochat": NanoChatConfig(**ROTARY),
    "nanochat, unusual": NanoChatConfig(
        **ROTARY, **OTHER_BASE, attention_bias=True, tie_word_embeddings=True, final_logit_softcapping=None
    ),
    "llama": LlamaConfig(**ROTARY),
    "llama, unusual": LlamaConfig(
        **ROTARY, **OTHER_BASE, head_dim=6, attention_bias=True, mlp_bias=True, tie_word_embeddings=True
    ),
    "qwen3": Qwen3Config(**ROTARY, head_dim=16),
    "qwen3, unusual": Qwen3Config(
        **ROTARY,
        **OTHER_BASE,
        head_dim=16,
        attention_bias=True,
        tie_word_embeddings=True,
        use_sliding_window=True,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
}


def logits_of(folder) -> torch.Tensor:
    """In float32, over two rows of 48 tokens: (2, 48, 320)."""
    input_ids = torch.randint(320, (2, 48), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(input_ids).logits


def tensors_of(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def refusal(run, *words) -> str:
    with pytest.raises(UserError) as refused:
        run([str(word) for word in words])
    return str(refused.value)


# What vLLM's or llama.cpp's own class of the architecture lacks, of a model that transformers computes.
LACKING = {
    "gpt2, unusual": "gpt2 lacks mlp_type and attention_multiplier and intermediate_size,",
    "qwen3, unusual": "qwen3 lacks attention_bias and sliding_window,",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_an_imported_model_computes_the_same_and_exports_to_the_same_tensors(name, native_folder, tmp_path, capsys):
    native, ours, back = native_folder(CONFIGS[name]), tmp_path / "ours", tmp_path / "back"
    import_model([str(native), "--output_dir", str(ours)])
    export_model([str(ours), "--output_dir", str(back)])
    said = capsys.readouterr().out
    assert said.count("logits in float32") == 2
    assert said.count("careful:") == (name in LACKING) and LACKING.get(name, "") in said

    model = AutoModelForCausalLM.from_pretrained(ours)
    assert isinstance(model, GPTForCausalLM)
    expected = logits_of(native)
    assert expected.std() > 0.1
    assert (logits_of(ours) - expected).abs().max() < 1e-5
    assert torch.equal(logits_of(back), expected)
    assert tensors_of(back).keys() == tensors_of(native).keys()
    assert all(torch.equal(tensors_of(back)[key], tensor) for key, tensor in tensors_of(native).items())
    if name == "gpt2":
        assert json.loads((back / "config.json").read_text())["n_ctx"] == 64  # llama.cpp's converter asks for it
    config, before = (json.loads((folder / "config.json").read_text()) for folder in (back, native))
    assert config["architectures"] == before["architectures"]
    assert {key: config[key] for key in before if key not in ("transformers_version", "initializer_range")} == {
        key: value for key, value in before.items() if key not in ("transformers_version", "initializer_range")
    }


@pytest.mark.parametrize("name", ["gpt2", "nanochat", "llama", "qwen3"])
def test_tokenizer_and_generation_settings_come_along_and_the_vocabulary_stays(
    name, native_folder, plain_tokenizer, tmp_path
):
    native, ours, back = native_folder(CONFIGS[name]), tmp_path / "ours", tmp_path / "back"
    settings = json.loads((native / "generation_config.json").read_text()) | {"eos_token_id": [0, 7], "top_k": 5}
    (native / "generation_config.json").write_text(json.dumps(settings))
    import_model([str(native), "--output_dir", str(ours)])
    export_model([str(ours), "--to", name, "--output_dir", str(back)])

    for folder in (ours, back):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.get_vocab() == plain_tokenizer.get_vocab()
        assert tokenizer(TEXT).input_ids == plain_tokenizer(TEXT).input_ids
        assert (tokenizer.bos_token, tokenizer.pad_token) == ("<|endoftext|>", None)
        kept = AutoModelForCausalLM.from_pretrained(folder).generation_config
        assert (kept.eos_token_id, kept.top_k) == ([0, 7], 5)
    assert AutoModelForCausalLM.from_pretrained(ours).config.vocab_size == 320
    assert list(ours.glob("*.py"))
    assert not list(back.glob("*.py"))  # nothing that would have to be trusted


def test_weights_in_bfloat16_stay_as_they_are_to_the_bit(native_folder, tmp_path):
    native = native_folder(CONFIGS["gpt2"], dtype="bfloat16")
    import_model([str(native), "--output_dir", str(tmp_path / "ours")])
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "ours").values()} == {torch.bfloat16}
    export_model([str(tmp_path / "ours"), "--output_dir", str(tmp_path / "back")])
    assert all(torch.equal(tensors_of(tmp_path / "back")[key], t) for key, t in tensors_of(native).items())


# Switches that the architecture has not, and its weights stand for: (architecture, our switches).
BY_WEIGHTS = {
    "gpt2": {"norm_weight": False, "attention_bias": False, "mlp_bias": False, "attention_multiplier": 0.5},
    "llama": {"norm_weight": False, "norm_type": "rmsnorm", "attention_multiplier": 0.5},
    "qwen3": {"norm_weight": False, "norm_type": "rmsnorm", "attention_multiplier": 0.5, "qk_norm": True},
}


@pytest.mark.parametrize("name", BY_WEIGHTS)
def test_missing_biases_gains_and_another_scale_of_attention_are_put_into_the_weights(name, randomized):
    switches = SHAPE | BY_WEIGHTS[name]
    if name != "gpt2":
        switches |= {"position_embedding_type": "rope", "mlp_type": "swiglu", "attention_bias": False}
        switches |= {"mlp_bias": False, "num_key_value_heads": 2}
    torch.manual_seed(0)
    ours = randomized(GPTForCausalLM(GPTConfig(**switches)))
    assert FAMILIES[name].obstacles(ours.config) == {}
    native = exported(ours, FAMILIES[name])
    input_ids = torch.randint(320, (2, 48), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        assert (ours(input_ids).logits - native(input_ids).logits).abs().max() < 1e-5


def test_the_proof_reads_beyond_the_window():
    slides = {"use_sliding_window": True, "sliding_window": 80, "layer_types": ["sliding_attention"] * 3}
    torch.manual_seed(0)
    native = AutoModelForCausalLM.from_config(Qwen3Config(**ROTARY | {"max_position_embeddings": 128}, **slides))
    ours = imported(native.eval(), FAMILIES["qwen3"])
    assert prove_equal(native, ours) < 1e-5
    for window in (79, 82):
        config = GPTConfig(**architecture_keys(ours.config) | {"sliding_window": window})
        with pytest.raises(UserError, match="would not compute what Qwen3ForCausalLM does"):
            prove_equal(native, with_weights(config, ours.state_dict()))


def test_the_depth_series_without_its_additions_is_nanochat(randomized):
    off = {"value_embeddings": False, "residual_scalars": False, "bigram_vocab_size": 0, "sliding_window": 0}
    config = GPTConfig.from_depth(3, vocab_size=320, **off)
    assert list(FAMILIES["nanochat"].obstacles(config)) == ["attention_multiplier"]
    config.attention_multiplier = None
    assert FAMILIES["nanochat"].obstacles(config) == {}
    torch.manual_seed(0)
    ours = randomized(GPTForCausalLM(config))
    native = exported(ours, FAMILIES["nanochat"])
    input_ids = torch.randint(320, (2, 48), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        assert (ours(input_ids).logits - native(input_ids).logits).abs().max() < 1e-5


DOCUMENTED = {  # docs/converting.md, "Out"
    "gpt2": {"preset": "gpt2", "hidden_size": 96, "num_attention_heads": 3},
    "llama": {"preset": "gpt2", "position_embedding_type": "rope", "norm_type": "rmsnorm", "mlp_type": "swiglu"},
    "qwen3": {"preset": "gpt2", "position_embedding_type": "rope", "norm_type": "rmsnorm", "mlp_type": "swiglu"}
    | {"qk_norm": True, "mlp_bias": False, "attention_bias": False, "num_key_value_heads": 4, "head_dim": 32},
    "nanochat": {"depth": 8, "value_embeddings": False, "residual_scalars": False, "bigram_vocab_size": 0}
    | {"sliding_window": 0, "attention_multiplier": 0.0883883},
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_recipes_that_the_documentation_names_fit_in_transformers_and_elsewhere(name):
    config = GPTConfig(**architecture_of(ModelArguments(**DOCUMENTED[name]), 320, 512))
    assert FAMILIES[name].obstacles(config) == {}
    assert FAMILIES[name].lacking_elsewhere(config) == []


def test_every_switch_in_the_way_of_an_export_is_named(plain_tokenizer, tmp_path):
    GPTForCausalLM(GPTConfig.from_depth(3, vocab_size=320, max_position_embeddings=512)).save_pretrained(
        tmp_path / "ours"
    )
    plain_tokenizer.save_pretrained(tmp_path / "ours")
    out = tmp_path / "out"
    sentence = refusal(export_model, tmp_path / "ours", "--to", "llama", "--output_dir", out)
    for named in (
        "embedding_norm true (not false)",
        "qk_norm true (not false)",
        "mlp_type relu2 (not swiglu)",
        "final_logit_softcapping 15.0 (not null)",
        "sliding_window 128 (not null)",
        "layer_types sliding_attention/full_attention (not full_attention)",
        "value_embeddings true (not false)",
        "bigram_vocab_size 5120 (not 0)",
        "residual_scalars true (not false)",
    ):
        assert named in sentence
    assert "head_dim" not in sentence
    assert "norm_weight" not in sentence
    nearest = refusal(export_model, tmp_path / "ours", "--output_dir", out)
    assert "fits no architecture of transformers (nanochat best)" in nearest
    assert "qk_norm" not in nearest
    assert not out.exists()


def test_every_switch_of_the_model_is_either_expressed_or_named():
    """Each switch, changed alone, stands in the way of GPT-2 unless GPT-2's configuration or weights can say it."""
    changed = {
        "vocab_size": 99,
        "max_position_embeddings": 32,
        "hidden_size": 64,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 4,
        "position_embedding_type": "rope",
        "norm_type": "rmsnorm",
        "norm_weight": False,
        "norm_eps": 1e-3,
        "embedding_norm": True,
        "qk_norm": True,
        "attention_multiplier": 0.5,
        "mlp_type": "swiglu",
        "linear_type": "kan",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "final_logit_softcapping": 15.0,
        "sliding_window": 4,
        "value_embeddings": True,
        "bigram_vocab_size": 64,
        "residual_scalars": True,
        "smear": True,
        "backout": True,
    }
    without_effect_here = {"rope_theta", "kan_grid_size", "layer_types", "init_scheme", "initializer_range"}
    dropouts = {"embedding_dropout", "hidden_dropout", "attention_dropout"}
    assert changed.keys() | without_effect_here | dropouts == architecture_keys(GPTConfig()).keys()
    in_the_way = set()
    for key, value in changed.items():
        layers = {"layer_types": ["sliding_attention"] * 3} if key == "sliding_window" else {}
        in_the_way |= set(FAMILIES["gpt2"].obstacles(GPTConfig(**SHAPE | layers | {key: value}))) & {key}
    assert in_the_way == {
        *("num_key_value_heads", "head_dim", "position_embedding_type", "norm_type", "embedding_norm", "qk_norm"),
        *("mlp_type", "linear_type", "final_logit_softcapping", "sliding_window", "value_embeddings"),
        *("bigram_vocab_size", "residual_scalars", "smear", "backout"),
    }


LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 32}
REFUSED = {
    "rope_parameters.rope_type llama3": LlamaConfig(**ROTARY, rope_parameters=LLAMA3),
    "activation_function gelu of this gpt2 model": GPT2Config(**GPT2, activation_function="gelu"),
    "scale_attn_by_inverse_layer_idx": GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True),
    "hidden_act gelu of this llama model": LlamaConfig(**ROTARY, hidden_act="gelu"),
    "is a opt model": OPTConfig(
        vocab_size=320, hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=32
    ),
}


@pytest.mark.parametrize("named", REFUSED)
def test_what_no_switch_expresses_is_named(named, native_folder, tmp_path):
    native = native_folder(REFUSED[named])
    assert named in refusal(import_model, native, "--output_dir", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_folders_that_cannot_be_imported_are_refused_and_nothing_is_written(native_folder, tmp_path):
    native, out = native_folder(CONFIGS["gpt2"]), tmp_path / "out"
    assert hfgpt(["import", str(tmp_path / "absent"), "--output_dir", str(out)]) == 2
    to_out = ("--output_dir", out)
    assert "there is no folder" in refusal(import_model, "./absent", *to_out)
    (tmp_path / "empty").mkdir()
    assert "holds no model" in refusal(import_model, tmp_path / "empty", *to_out)
    (tmp_path / "empty" / "adapter_config.json").write_text("{}")
    assert "holds LoRA weights" in refusal(import_model, tmp_path / "empty", *to_out)
    assert "is not empty" in refusal(import_model, native, "--output_dir", native)
    import_model([str(native), "--output_dir", str(tmp_path / "ours")])
    (tmp_path / "a_file").write_text("")
    assert "cannot be written" in refusal(import_model, native, "--output_dir", tmp_path / "a_file" / "out")
    assert "a model of hfgpt already" in refusal(import_model, tmp_path / "ours", *to_out)
    assert "a gpt2 model of transformers already" in refusal(export_model, native, *to_out)
    assert "are for nanochat's own checkpoints" in refusal(import_model, native, "--base", *to_out)
    config = json.loads((native / "config.json").read_text())
    (native / "config.json").write_text(json.dumps(config | {"n_layer": 4}))
    assert "lack transformer.h.3." in refusal(import_model, native, *to_out)
    (native / "config.json").write_text(json.dumps(config | {"vocab_size": 299}))
    assert "lack transformer.wte.weight" in refusal(import_model, native, *to_out)
    (native / "config.json").write_text(json.dumps(config))
    (native / "tokenizer.json").unlink()
    (native / "tokenizer_config.json").unlink()
    assert "holds no tokenizer" in refusal(import_model, native, *to_out)
    (native / "model.safetensors").write_bytes((native / "model.safetensors").read_bytes()[:500])
    assert "cannot be loaded as a language model" in refusal(import_model, native, *to_out)
    assert not out.exists()
    assert not list(tmp_path.glob("*.being-written"))
