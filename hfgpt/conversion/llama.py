"""Llama (Touvron et al. 2023, arXiv:2302.13971) and Qwen3 (arXiv:2505.09388), which is Llama with QK norm, a head
width of its own and sliding windows. Their tensors have the names that ours have."""

from typing import Any, ClassVar

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hfgpt.conversion.native import NativeFamily, State, fold_attention_multiplier, rotary_keys, rotary_switches
from hfgpt.model import GPTConfig


class LlamaFamily(NativeFamily):
    """transformers' LlamaForCausalLM: Llama 1 and 2, SmolLM2 and all that take their shape."""

    name = "llama"
    config_class: ClassVar[type[PreTrainedConfig]] = LlamaConfig
    model_class: ClassVar[type[PreTrainedModel]] = LlamaForCausalLM
    expressed_by_weights = frozenset(("norm_weight", "attention_multiplier"))

    def switches_of(self, config: Any) -> dict[str, Any]:
        return shared_switches(config) | {"mlp_bias": config.mlp_bias}

    def native_keys(self, config: GPTConfig) -> dict[str, Any]:
        return shared_keys(config) | {"mlp_bias": config.mlp_bias}

    def to_ours(self, state: State, config: GPTConfig) -> State:
        return state

    def to_native(self, state: State, config: GPTConfig) -> State:
        return fold_attention_multiplier(state, config, (".q_proj.weight", ".q_proj.bias"))


class Qwen3Family(LlamaFamily):
    """transformers' Qwen3ForCausalLM."""

    name = "qwen3"
    config_class = Qwen3Config
    model_class = Qwen3ForCausalLM
    whole_heads = False

    def switches_of(self, config: Any) -> dict[str, Any]:
        return shared_switches(config) | {
            "qk_norm": True,
            "layer_types": list(config.layer_types),
            "sliding_window": config.sliding_window,
            "mlp_bias": False,
        }

    def native_keys(self, config: GPTConfig) -> dict[str, Any]:
        slides = "sliding_attention" in config.layer_types
        return shared_keys(config) | {
            "layer_types": list(config.layer_types),
            "use_sliding_window": slides,
            "sliding_window": config.sliding_window if slides else None,
        }

    def lacking_elsewhere(self, config: GPTConfig) -> list[str]:
        # vLLM drops the output's bias and reads no layer_types (its issue 39514); llama.cpp's qwen3.cpp has neither.
        biased = ["attention_bias"] if config.attention_bias else []
        return biased + (["sliding_window"] if "sliding_attention" in config.layer_types else [])

    def to_native(self, state: State, config: GPTConfig) -> State:
        # A normed query is scaled by its gain; norms without parameters get one.
        gains = {
            f"model.layers.{layer}.self_attn.q_norm.weight": torch.ones(config.head_dim)
            for layer in range(config.num_hidden_layers)
        }
        return fold_attention_multiplier(gains | state, config, (".q_norm.weight",))


def shared_switches(config: Any) -> dict[str, Any]:
    """Our keys for what Llama and Qwen3 configurations have in common."""
    return rotary_switches(config, {"silu": "swiglu"}) | {
        "head_dim": config.head_dim,
        "initializer_range": config.initializer_range,
    }


def shared_keys(config: GPTConfig) -> dict[str, Any]:
    """What `shared_switches` reads, from our configuration."""
    return rotary_keys(config, "silu") | {
        "head_dim": config.head_dim,
        "initializer_range": config.initializer_range,
    }
