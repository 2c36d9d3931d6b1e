"""What a forward pass leaves for its backward pass, in bytes: autograd's copies, operation by operation, of
`hfgpt/model/modeling_gpt.py`. Plain arithmetic on the architecture, no torch.

Counted from the derivative of each operation, and checked on a CPU against the tensors that autograd really keeps
(tests/training/test_memory.py). Letters: w hidden_size, q and kv the widths of queries and keys, i the MLP's.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from hfgpt.training.budget import VALUE_GATE_CHANNELS, has_value_embedding

FLOAT32 = 4  # weights, gradients, optimizer state, norms and the residual stream under autocast
BFLOAT16 = 2
INT64 = 8

AttentionKernel = Literal["eager", "sdpa", "flash"]


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass over `rows` rows of `max_length` tokens, and what decides what it keeps.

    `attention` is how the kernel takes packed documents: eager and sdpa as a mask of max_length x max_length for each
    row, flash (varlen and flex too) as lengths. `packed` is False where attention may cross documents.
    """

    rows: int
    max_length: int
    bf16: bool = False
    on_gpu: bool = False
    attention: AttentionKernel = "sdpa"
    packed: bool = True
    activation_checkpointing: bool = False
    torch_compile: bool = False

    @property
    def tokens(self) -> int:
        return self.rows * self.max_length

    @property
    def compute_bytes(self) -> int:
        """Bytes of a value that goes into a matrix product."""
        return BFLOAT16 if self.bf16 else FLOAT32


def embedding_bytes(architecture: Mapping[str, Any], work: Pass) -> int:
    """Kept before the first layer: ids, labels and positions, rotary angles, the embedding and its norm."""
    a, width = architecture, architecture["hidden_size"]
    per_token = 4 * INT64  # input_ids, labels, labels shifted, position_ids
    if a["position_embedding_type"] == "rope":
        angles = FLOAT32 * a["head_dim"]  # cos and sin, for each token or, unpacked, for one row
        per_token += angles if work.packed else angles // work.rows
    if a["embedding_norm"]:
        per_token += _norm(a, work, width, a["norm_type"])
    if a["residual_scalars"] or work.activation_checkpointing:
        per_token += FLOAT32 * width  # every layer reads it again
    if work.activation_checkpointing:  # then the masks stand too, of bool, one for each kind of layer
        per_token += work.max_length * sum(_is_masked(work, kind) for kind in set(a["layer_types"]))
    return work.tokens * per_token


def layer_bytes(architecture: Mapping[str, Any], work: Pass, layer_idx: int) -> int:
    """Kept by one layer without activation checkpointing."""
    a, width = architecture, architecture["hidden_size"]
    per_token = 2 * _norm(a, work, width, a["norm_type"]) + _attention(a, work, layer_idx) + _mlp(a, work)
    if a["residual_scalars"] and layer_idx > 0:
        per_token += FLOAT32 * width  # the layer's input, for the gradient of its scalar
    if a["hidden_dropout"]:
        per_token += 2 * width * (1 if work.on_gpu else FLOAT32)
    return work.tokens * per_token


def layers_bytes(architecture: Mapping[str, Any], work: Pass) -> int:
    """Kept by all layers when the forward pass ends: with checkpointing, only each layer's input."""
    layers = architecture["num_hidden_layers"]
    if work.activation_checkpointing:
        return (layers - 1) * work.tokens * FLOAT32 * architecture["hidden_size"]
    return sum(layer_bytes(architecture, work, layer_idx) for layer_idx in range(layers))


def head_bytes(architecture: Mapping[str, Any], work: Pass) -> int:
    """Kept by the last norm and as input of the head; logits not counted."""
    width = architecture["hidden_size"]
    return work.tokens * (_norm(architecture, work, width, architecture["norm_type"]) + work.compute_bytes * width)


def _norm(a: Mapping[str, Any], work: Pass, width: int, norm_type: str, heads: int = 1) -> int:
    """A norm keeps its input, in float32 even under autocast, and one or two numbers a row. RMSNorm is several
    operations on a CPU, and keeps the normed values too if they meet a weight."""
    twice = norm_type == "rmsnorm" and a["norm_weight"] and not work.on_gpu
    return FLOAT32 * (width * (2 if twice else 1) + heads * (2 if norm_type == "layernorm" else 1))


def _is_masked(work: Pass, layer_type: str) -> bool:
    """Whether a layer of this type gets a mask: one that is causal and nothing else is the kernel's own."""
    return work.attention != "flash" and (work.packed or layer_type == "sliding_attention")


def _linear_inputs(a: Mapping[str, Any], work: Pass, width: int, readers: int = 1) -> int:
    """What `readers` linears keep of the input of `width` channels that they share. Autocast casts it for each of
    them; the compiler finds that these casts are one."""
    if a["linear_type"] == "kan":
        bumps = width * a["kan_grid_size"] * (2 * FLOAT32 + work.compute_bytes)  # pow, exp, and the spline's input
        return FLOAT32 * width + readers * (bumps + work.compute_bytes * width)
    return work.compute_bytes * width * (readers if work.bf16 and not work.torch_compile else 1)


def _attention(a: Mapping[str, Any], work: Pass, layer_idx: int) -> int:
    compute, heads, key_heads = work.compute_bytes, a["num_attention_heads"], a["num_key_value_heads"]
    queries, keys = heads * a["head_dim"], key_heads * a["head_dim"]
    rope = a["position_embedding_type"] == "rope"
    masked = _is_masked(work, a["layer_types"][layer_idx])

    kept = _linear_inputs(a, work, a["hidden_size"], readers=3)
    if a["qk_norm"]:
        kept += _norm(a, work, queries, "rmsnorm", heads) + _norm(a, work, keys, "rmsnorm", key_heads)
        if work.torch_compile:
            kept -= (FLOAT32 - compute) * (queries + keys)  # the projections' own output, before its cast
    if has_value_embedding(a, layer_idx):
        gate_input = compute * min(VALUE_GATE_CHANNELS, a["hidden_size"]) if work.bf16 else 0
        kept += compute * (keys + 2 * key_heads) + gate_input
    repeated = queries if work.attention == "eager" or masked else keys  # grouped keys go in whole only unmasked
    kept += compute * (queries + 2 * repeated)
    if work.attention == "eager":
        scores = heads * work.max_length
        kept += scores * (FLOAT32 + (BFLOAT16 if work.bf16 else 0))
    else:
        kept += compute * queries + FLOAT32 * heads  # output and log-sum-exp
        if masked:
            kept += compute * work.max_length
    if a["linear_type"] == "kan" or work.attention == "eager" or (work.attention == "sdpa" and rope):
        kept += _linear_inputs(a, work, queries)  # o_proj's input is a copy of the output
    return kept


def _mlp(a: Mapping[str, Any], work: Pass) -> int:
    compute, inner = work.compute_bytes, a["intermediate_size"]
    squares_in_float32 = work.on_gpu and work.bf16 and not work.torch_compile  # CUDA's autocast rule for pow
    readers, between = {
        "gelu": (1, compute * inner),  # gelu's input
        "relu2": (1, compute * inner + (FLOAT32 * inner if squares_in_float32 else 0)),
        "swiglu": (2, compute * 3 * inner),  # silu's input and output, and what it gates
    }[a["mlp_type"]]
    return _linear_inputs(a, work, a["hidden_size"], readers) + between + _linear_inputs(a, work, inner)
