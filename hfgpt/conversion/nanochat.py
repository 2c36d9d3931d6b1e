"""NanoChat as transformers ships it: the first form of Karpathy's model (October 2025), without value embeddings,
residual scalars, smear and backout. It rotates the other way round, and norms queries and keys after that."""

from typing import Any

from transformers import NanoChatConfig, NanoChatForCausalLM

from hfgpt.conversion.native import NativeFamily, State, mlp_type_of, rope_theta_of, swap_rotary_halves
from hfgpt.model import GPTConfig

ROTATED = (".q_proj.weight", ".q_proj.bias", ".k_proj.weight", ".k_proj.bias")


class NanoChatFamily(NativeFamily):
    """transformers' NanoChatForCausalLM."""

    name = "nanochat"
    config_class = NanoChatConfig
    model_class = NanoChatForCausalLM

    def switches_of(self, config: NanoChatConfig) -> dict[str, Any]:
        return {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "head_dim": config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads,
            "position_embedding_type": "rope",
            "rope_theta": rope_theta_of(config),
            "norm_type": "rmsnorm",
            "norm_weight": False,
            "norm_eps": config.rms_norm_eps,
            "embedding_norm": True,
            "qk_norm": True,
            "mlp_type": mlp_type_of(config.hidden_act, {"relu2": "relu2"}, "hidden_act", self.name),
            "attention_bias": config.attention_bias,
            "mlp_bias": False,
            "tie_word_embeddings": config.tie_word_embeddings,
            "final_logit_softcapping": config.final_logit_softcapping,
            "init_scheme": "depth",
            "attention_dropout": float(config.attention_dropout),
        }

    def native_keys(self, config: GPTConfig) -> dict[str, Any]:
        return {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.max_position_embeddings,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_hidden_layers,
            "num_attention_heads": config.num_attention_heads,
            "num_key_value_heads": config.num_key_value_heads,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "rms_norm_eps": config.norm_eps,
            "hidden_act": "relu2",
            "attention_bias": config.attention_bias,
            "tie_word_embeddings": config.tie_word_embeddings,
            "final_logit_softcapping": config.final_logit_softcapping,
            "attention_dropout": config.attention_dropout,
        }

    def to_ours(self, state: State, config: GPTConfig) -> State:
        renamed = {name.replace(".fc1.", ".up_proj.").replace(".fc2.", ".down_proj."): t for name, t in state.items()}
        return rotated_the_other_way(renamed, config)

    def to_native(self, state: State, config: GPTConfig) -> State:
        renamed = {name.replace(".up_proj.", ".fc1.").replace(".down_proj.", ".fc2."): t for name, t in state.items()}
        return rotated_the_other_way(renamed, config)


def rotated_the_other_way(state: State, config: GPTConfig) -> State:
    """Parameters of a model that rotates by -theta from those of one that rotates by theta, or the other way round."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return {
        name: swap_rotary_halves(tensor, heads[name.split(".")[-2]]) if name.endswith(ROTATED) else tensor
        for name, tensor in state.items()
    }
