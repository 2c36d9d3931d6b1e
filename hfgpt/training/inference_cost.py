"""What a trained model needs when it answers: the memory of its KV cache and the fastest that it can decode. Plain
arithmetic on the architecture, no torch."""

from collections.abc import Mapping
from typing import Any

from hfgpt.training.accelerators import Accelerator
from hfgpt.training.activations import BFLOAT16
from hfgpt.training.budget import count_parameters, scaling_parameters


def kv_cache_bytes(architecture: Mapping[str, Any], tokens: int, value_bytes: int = BFLOAT16) -> int:
    """Keys and values of `tokens` tokens of one conversation; a sliding layer keeps its window and no more."""
    a = architecture
    width = a["num_key_value_heads"] * a["head_dim"]
    kept = 0
    for layer_type in a["layer_types"]:
        windowed = layer_type == "sliding_attention" and a["sliding_window"]
        kept += min(tokens, a["sliding_window"]) if windowed else tokens
    return 2 * kept * width * value_bytes


def inference_weight_bytes(architecture: Mapping[str, Any], value_bytes: int = BFLOAT16) -> int:
    """All weights, as a server holds them."""
    return count_parameters(architecture).total * value_bytes


def decode_bound(architecture: Mapping[str, Any], accelerator: Accelerator, batch: int, tokens: int) -> float:
    """The most tokens per second, over `batch` conversations of `tokens` tokens each, that bandwidth or FLOP/s allow.

    Each step reads the weights of every matrix product once and each conversation's KV cache once, in bfloat16
    (Pope et al. 2022, arXiv:2211.05102); two FLOPs a weight and a token, attention's left out.
    """
    weights = scaling_parameters(architecture)
    read = BFLOAT16 * weights + batch * kv_cache_bytes(architecture, tokens)
    return batch / max(read / accelerator.bandwidth, 2 * weights * batch / accelerator.bf16_flops)
