"""NanoChat as transformers ships it: the first form of Karpathy's model (October 2025), without value embeddings,
residual scalars, smear and backout. It rotates the other way round, and norms queries and keys after that."""

from typing import Any

from transformers import NanoChatConfig, NanoChatForCausalLM

from hfgpt.conversion.native import NativeFamily, State, rotary_keys, rotary_switches, swap_rotary_halves
from hfgpt.model import GPTConfig

ROTATED = (".q_proj.weight", ".q_proj.bias", ".k_proj.weight", ".k_proj.bias")


class NanoChatFamily(NativeFamily):
    """transformers' NanoChatForCausalLM."""

    name = "nanochat"
    config_class = NanoChatConfig
    model_class = NanoChatForCausalLM

    def switches_of(self, config: NanoChatConfig) -> dict[str, Any]:
        return rotary_switches(config, {"relu2": "relu2"}) | {
            "head_dim": config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads,
            "norm_weight": False,
            "embedding_norm": True,
            "qk_norm": True,
            "mlp_bias": False,
            "final_logit_softcapping": config.final_logit_softcapping,
            "init_scheme": "depth",
        }

    def native_keys(self, config: GPTConfig) -> dict[str, Any]:
        return rotary_keys(config, "relu2") | {"final_logit_softcapping": config.final_logit_softcapping}

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
