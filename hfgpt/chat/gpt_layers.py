"""The blocks of a GPTForCausalLM laid out for decoding: matrices that read the same input joined into one, no dropout,
no module calls, masks only where rows differ. Weights are shared with the model or copied.

Letters in shapes: b rows, t tokens, n = b t, h query heads, k key/value heads, d head_dim."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from hfgpt.model.modeling_gpt import GPTDecoderLayer, GPTNorm

Transform = Callable[[torch.Tensor], torch.Tensor]
Join = Callable[[Sequence[nn.Module]], Transform]


class Columns(NamedTuple):
    """Where in the cache the tokens of one forward pass stand. A row whose prompt is shorter than the longest begins
    some columns later, after padding."""

    past: int  # columns filled before
    end: int  # and with these tokens
    first: int  # all columns before this one are padding
    unpadded: torch.Tensor | None  # (b, 1, 1, capacity), false where a row has padding; None: none from `first` on
    prompt_masks: dict[int | None, torch.Tensor | None]  # of a prompt, by window: (b or 1, 1, t, t); None: causal


class DecodingLayer:
    """One block, and its keys and values in a cache of (b, k, capacity, d) each that the caller holds."""

    def __init__(self, layer: GPTDecoderLayer, join: Join) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.heads, self.key_value_heads = attention.config.num_attention_heads, attention.config.num_key_value_heads
        self.head_dim, self.scaling, self.window = attention.head_dim, attention.scaling, attention.sliding_window
        self.residual_scalar, self.embedding_scalar = layer.residual_scalar, layer.embedding_scalar
        self.input_norm = frozen_norm(layer.input_layernorm)
        self.post_norm = frozen_norm(layer.post_attention_layernorm)
        self.qkv_proj = join([attention.q_proj, attention.k_proj, attention.v_proj])
        self.o_proj = join([attention.o_proj])
        self.qk_norm = None
        if attention.q_norm is not None and attention.k_norm is not None:
            self.qk_norm = query_key_norm(attention.q_norm, attention.k_norm, self.heads, self.key_value_heads)
        self.value_table = self.value_gate = None
        if attention.value_embed is not None and attention.value_gate is not None:
            self.value_table, self.value_gate = attention.value_embed.weight, attention.value_gate.weight
        self.mlp_type = mlp.mlp_type
        self.up_proj = join([mlp.up_proj] if mlp.gate_proj is None else [mlp.gate_proj, mlp.up_proj])
        self.down_proj = join([mlp.down_proj])

    def __call__(
        self,
        hidden_states: torch.Tensor,  # (n, hidden_size)
        embedding: torch.Tensor,  # what they were before the first layer
        tokens: torch.Tensor,  # (b, t)
        rotary: tuple[torch.Tensor, torch.Tensor] | None,  # cos and signed sin, (t, 1, d) or (b, t, 1, d)
        cache: tuple[torch.Tensor, torch.Tensor],
        columns: Columns,
    ) -> torch.Tensor:
        if self.residual_scalar is not None and self.embedding_scalar is not None:
            hidden_states = torch.addcmul(hidden_states * self.residual_scalar, embedding, self.embedding_scalar)
        query, key, value = self._project(self.input_norm(hidden_states), tokens, rotary)
        cache[0][:, :, columns.past : columns.end] = key
        cache[1][:, :, columns.past : columns.end] = value
        if tokens.shape[1] == 1:
            attended = self._attend_from_token(query, *cache, columns)
        else:
            attended = self._attend_in_prompt(query, key, value, columns.prompt_masks[self.window])
        hidden_states = hidden_states + self.o_proj(attended)
        return hidden_states + self._mlp(self.post_norm(hidden_states))

    def _project(
        self, normed: torch.Tensor, tokens: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query (b, h, t, d), key and value (b, k, t, d)."""
        both = self.heads + self.key_value_heads  # queries and keys go the same way
        qkv = self.qkv_proj(normed).view(*tokens.shape, both + self.key_value_heads, self.head_dim)
        qk, value = qkv[:, :, :both], qkv[:, :, both:]
        if self.value_table is not None and self.value_gate is not None:
            gate = F.linear(normed[:, : self.value_gate.shape[1]], self.value_gate).sigmoid()  # (n, k)
            embedded = F.embedding(tokens, self.value_table).view(value.shape)
            value = torch.addcmul(value, gate.view(*value.shape[:3], 1), embedded, value=3)
        if self.qk_norm is not None:
            qk = self.qk_norm(qk)
        if rotary is not None:
            cos, signed_sin = rotary
            # Channel i turns with channel i + d / 2: rolled by half, each lies where its partner was.
            qk = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, -1), signed_sin)
        qk = qk.transpose(1, 2)
        return qk[:, : self.heads], qk[:, self.heads :], value.transpose(1, 2)

    def _attend_from_token(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, columns: Columns
    ) -> torch.Tensor:
        """Attention of each row's newest token to all that it sees of the cache, (b, h d)."""
        start = columns.first if self.window is None else max(columns.first, columns.end - self.window)
        # The query heads of a group see the same keys, so they can stand as several queries of one head.
        output = F.scaled_dot_product_attention(
            query.reshape(-1, self.key_value_heads, self.heads // self.key_value_heads, self.head_dim),
            keys[:, :, start : columns.end],
            values[:, :, start : columns.end],
            attn_mask=None if columns.unpadded is None else columns.unpadded[..., start : columns.end],
            scale=self.scaling,
        )
        return output.reshape(-1, self.heads * self.head_dim)

    def _attend_in_prompt(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Attention among the tokens of the prompts, (n, h d)."""
        output = F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=self.scaling, enable_gqa=True
        )
        return output.transpose(1, 2).reshape(-1, self.heads * self.head_dim)

    def _mlp(self, normed: torch.Tensor) -> torch.Tensor:
        inner = self.up_proj(normed)
        if self.mlp_type == "swiglu":
            gate, inner = inner.chunk(2, dim=-1)
            inner = F.silu(gate) * inner
        elif self.mlp_type == "relu2":
            inner = F.relu(inner).square()
        else:
            inner = F.gelu(inner, approximate="tanh")
        return self.down_proj(inner)


def joined(linears: Sequence[nn.Module], packs: bool = True) -> Transform:
    """Linears that read the same input (n, in) as one; their outputs stand side by side. KAN linears stay apart. With
    `packs` float32 matrices of a CPU are laid out for oneDNN, which torch.compile cannot look into."""
    dense = [linear for linear in linears if isinstance(linear, nn.Linear)]
    if not dense:
        return linears[0] if len(linears) == 1 else lambda inputs: torch.cat([f(inputs) for f in linears], dim=-1)
    weight = torch.cat([linear.weight for linear in dense]) if len(dense) > 1 else dense[0].weight.detach()
    biases: list[torch.Tensor] = [linear.bias for linear in dense if linear.bias is not None]
    if packs and (packed := _packed(weight, torch.cat(biases) if biases else None)):
        return packed
    weight = weight.t()
    if weight.device.type == "cpu":
        weight = weight.contiguous()  # row after row in memory it multiplies up to twice as fast
    return partial(torch.addmm, torch.cat(biases), mat2=weight) if biases else partial(torch.mm, mat2=weight)


def _packed(weight: torch.Tensor, bias: torch.Tensor | None) -> Transform | None:
    """The product with `weight` (out, in) by oneDNN, in blocks as its kernels read them: for 16 tokens a third of
    torch.mm's time on an AMD EPYC. None where this torch, device or dtype has no such product."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not torch.backends.mkldnn.is_available():
        return None
    try:
        blocks = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        product = torch.ops.mkldnn._linear_pointwise
        transform = partial(product, W=blocks, B=bias, attr="none", scalars=[], algorithm="")
        transform(weight.new_zeros(1, weight.shape[1]))
    except (RuntimeError, AttributeError):  # not for this processor; not in this torch
        return None
    return transform


def frozen_norm(norm: GPTNorm) -> Transform:
    """A norm of the model as a function."""
    return norm.forward if norm.norm_type == "layernorm" else rms_norm(norm.size[0], norm.eps, norm.weight)


def query_key_norm(query: GPTNorm, key: GPTNorm, heads: int, key_value_heads: int) -> Transform:
    """The norms of queries and keys as one over (b, t, h + k, d)."""
    weight = None
    if query.weight is not None and key.weight is not None:
        weight = torch.cat([query.weight.expand(heads, -1), key.weight.expand(key_value_heads, -1)])
    return rms_norm(query.size[0], query.eps, weight)


def rms_norm(size: int, eps: float, weight: torch.Tensor | None) -> Transform:
    """RMSNorm over the last dimension. In float32 on a CPU, where torch's own is eight operations, as sqrt(size) x /
    sqrt(|x|^2 + size eps) in half of the time."""
    root = torch.tensor(math.sqrt(size))  # tensors: a Python number is made one at each use
    scale = root if weight is None else root * weight
    smallest = torch.tensor(math.sqrt(size * eps))

    def norm(inputs: torch.Tensor) -> torch.Tensor:
        if inputs.device.type == "cpu" and inputs.dtype == torch.float32:
            return (inputs / torch.linalg.vector_norm(inputs, 2, -1, True).hypot_(smallest)).mul_(scale)
        normed = F.rms_norm(inputs, (size,), eps=eps)
        return normed if weight is None else normed * weight

    return norm
