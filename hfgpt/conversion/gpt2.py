"""GPT-2 (Radford et al. 2019), of any size: our defaults. Its linears are stored transposed, queries, keys and values
in one."""

from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from hfgpt.conversion.native import NativeFamily, State, fold_attention_multiplier, mlp_type_of
from hfgpt.errors import UserError
from hfgpt.model import GPTConfig

ACTIVATIONS = {"gelu_new": "gelu", "gelu_pytorch_tanh": "gelu", "gelu_fast": "gelu", "relu2": "relu2"}
# Of the whole model, and inside a block.
OUTER = {
    "transformer.wte": "model.embed_tokens",
    "transformer.wpe": "model.embed_positions",
    "transformer.ln_f": "model.norm",
    "lm_head": "lm_head",
}
INNER = {
    "ln_1": "input_layernorm",
    "attn.c_proj": "self_attn.o_proj",
    "ln_2": "post_attention_layernorm",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
}
TRANSPOSED = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
PROJECTIONS = ("q_proj", "k_proj", "v_proj")


class GPT2Family(NativeFamily):
    """transformers' GPT2LMHeadModel."""

    name = "gpt2"
    config_class = GPT2Config
    model_class = GPT2LMHeadModel
    expressed_by_weights = frozenset(("norm_weight", "attention_bias", "mlp_bias", "attention_multiplier"))

    def switches_of(self, config: GPT2Config) -> dict[str, Any]:
        switched_on = {
            "scale_attn_by_inverse_layer_idx": config.scale_attn_by_inverse_layer_idx,
            "add_cross_attention": config.add_cross_attention,
        }
        for key, is_on in switched_on.items():
            if is_on:
                raise UserError(f"{key} of this gpt2 model has no switch in hfgpt: it must be false.")
        return {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.n_positions,
            "hidden_size": config.n_embd,
            "intermediate_size": config.n_inner or 4 * config.n_embd,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "norm_eps": config.layer_norm_epsilon,
            "attention_multiplier": None if config.scale_attn_weights else 1.0,
            "mlp_type": mlp_type_of(config.activation_function, ACTIVATIONS, "activation_function", self.name),
            "tie_word_embeddings": config.tie_word_embeddings,
            "initializer_range": config.initializer_range,
            "embedding_dropout": config.embd_pdrop,
            "hidden_dropout": config.resid_pdrop,
            "attention_dropout": config.attn_pdrop,
        }

    def native_keys(self, config: GPTConfig) -> dict[str, Any]:
        return {
            "vocab_size": config.vocab_size,
            "n_positions": config.max_position_embeddings,
            "n_ctx": config.max_position_embeddings,  # as in OpenAI's files; llama.cpp's converter reads it
            "n_embd": config.hidden_size,
            "n_inner": None if config.intermediate_size == 4 * config.hidden_size else config.intermediate_size,
            "n_layer": config.num_hidden_layers,
            "n_head": config.num_attention_heads,
            "layer_norm_epsilon": config.norm_eps,
            "activation_function": "relu2" if config.mlp_type == "relu2" else "gelu_new",
            "scale_attn_weights": config.attention_multiplier != 1.0,
            "tie_word_embeddings": config.tie_word_embeddings,
            "initializer_range": config.initializer_range,
            "embd_pdrop": config.embedding_dropout,
            "resid_pdrop": config.hidden_dropout,
            "attn_pdrop": config.attention_dropout,
        }

    def lacking_elsewhere(self, config: GPTConfig) -> list[str]:
        # llama.cpp's gpt2.cpp has GELU (tanh) and 1/sqrt(head_dim) built in, and its converter four times the width.
        lacking = {
            "mlp_type": config.mlp_type == "relu2",
            "attention_multiplier": config.attention_multiplier == 1.0,
            "intermediate_size": config.intermediate_size != 4 * config.hidden_size,
        }
        return [switch for switch, is_lacking in lacking.items() if is_lacking]

    def to_ours(self, state: State, config: GPTConfig) -> State:
        ours: State = {}
        for name, tensor in state.items():
            if name.endswith(TRANSPOSED):
                tensor = tensor.t().contiguous()
            module, _, kind = name.rpartition(".")
            if module in OUTER:
                ours[f"{OUTER[module]}.{kind}"] = tensor
                continue
            _, _, layer, part = module.split(".", 3)  # transformer.h.3.attn.c_attn
            if part == "attn.c_attn":
                for projection, piece in zip(PROJECTIONS, tensor.chunk(3), strict=True):
                    ours[f"model.layers.{layer}.self_attn.{projection}.{kind}"] = piece.contiguous()
            else:
                ours[f"model.layers.{layer}.{INNER[part]}.{kind}"] = tensor
        return ours

    def to_native(self, state: State, config: GPTConfig) -> State:
        outer = {ours: theirs for theirs, ours in OUTER.items()}
        inner = {ours: theirs for theirs, ours in INNER.items()}
        if config.attention_multiplier != 1.0:  # which scale_attn_weights says
            state = fold_attention_multiplier(state, config, (".q_proj.weight", ".q_proj.bias"))
        native: State = {}
        for name, tensor in state.items():
            module, _, kind = name.rpartition(".")
            if module in outer:
                native[f"{outer[module]}.{kind}"] = tensor
                continue
            _, _, layer, part = module.split(".", 3)  # model.layers.3.self_attn.q_proj
            if part in inner:
                native[f"transformer.h.{layer}.{inner[part]}.{kind}"] = tensor
            elif part.endswith("q_proj"):
                pieces = [state[name.replace("q_proj", projection)] for projection in PROJECTIONS]
                native[f"transformer.h.{layer}.attn.c_attn.{kind}"] = torch.cat(pieces)
        return {
            name: tensor.t().contiguous() if name.endswith(TRANSPOSED) else tensor for name, tensor in native.items()
        }
