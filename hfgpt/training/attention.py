"""Attention for packed rows without a dense mask, registered with transformers under a name of its own, and the choice
of the fastest backend present. A name lives on a loaded model only; no checkpoint carries it.

The kernel itself needs a GPU, on which this file has not run yet; its plumbing is tested on a CPU."""

from importlib.util import find_spec
from typing import Any

import torch
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import flash_attention_mask

VARLEN = "varlen"  # by this name the model hands over sequence lengths instead of a mask
LARGEST_HEAD = 256  # of FlashAttention


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (b, h, t, d)
    key: torch.Tensor,  # (b, k, s, d)
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,  # (b, s), false where padded
    scaling: float,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,  # (sequences + 1,) int32
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention inside each sequence of flattened packed rows, by `torch.nn.attention.varlen.varlen_attn`; on
    a CPU sequence by sequence. Where no sequences are given, as in generation, by torch's sdpa. -> (b, t, h, d), None

    Raises:
        ValueError: for packed rows with dropout, which the kernel does not know.
    """
    if cu_seq_lens_q is None:
        mask = _visible(query, key, attention_mask, sliding_window)
        return _sdpa(query, key, value, mask, scaling, dropout).transpose(1, 2), None
    if dropout:
        raise ValueError(f"{VARLEN} has no dropout: set model.attention_dropout to 0 or choose sdpa.")
    batch_size, _, length, _ = query.shape
    q, k, v = (states.transpose(1, 2).flatten(0, 1) for states in (query, key, value))  # (b t, heads, d)
    if query.device.type == "cpu":
        output = _sequence_by_sequence(q, k, v, cu_seq_lens_q, scaling, sliding_window)
    else:
        from torch.nn.attention.varlen import varlen_attn

        longest = max_length_q or length
        # A keyword that not every torch with varlen_attn has.
        grouped: dict[str, Any] = {"enable_gqa": True} if query.shape[1] != key.shape[1] else {}
        output = varlen_attn(  # type: ignore[assignment]  # a pair only with return_aux
            q,
            k,
            v,
            cu_seq_lens_q,
            cu_seq_lens_q,
            longest,
            longest,
            scale=scaling,
            window_size=(sliding_window - 1 if sliding_window else -1, 0),
            **grouped,
        )
    return output.view(batch_size, length, *output.shape[1:]), None


AttentionInterface.register(VARLEN, varlen_attention)
AttentionMaskInterface.register(VARLEN, flash_attention_mask)


def fastest_attention(
    device: torch.device, half_precision: bool, dropout: float = 0.0, head_dim: int = LARGEST_HEAD
) -> str:
    """The name of the fastest attention for packed rows here: FlashAttention 3 on a Hopper GPU that has it installed,
    torch's variable-length flash kernel on other GPUs from Ampere on, else sdpa. The flash kernels know half
    precision only, and heads of a multiple of 8 up to 256."""
    if device.type != "cuda" or not half_precision or dropout or head_dim > LARGEST_HEAD or head_dim % 8:
        return "sdpa"
    capability = torch.cuda.get_device_capability(device)
    if capability[0] == 9 and find_spec("flash_attn_interface"):
        return "flash_attention_3"
    if capability >= (8, 0) and find_spec("torch.nn.attention.varlen"):
        return VARLEN
    return "sdpa"


def use_fastest_attention(model: PreTrainedModel, device: torch.device, half_precision: bool) -> str:
    """Let `model` attend by `fastest_attention`; returns its name."""
    name = fastest_attention(device, half_precision, model.config.attention_dropout, model.config.head_dim)
    model.set_attn_implementation(name)
    return name


def _visible(
    query: torch.Tensor, key: torch.Tensor, attention_mask: torch.Tensor | None, sliding_window: int | None
) -> torch.Tensor | None:
    """Which keys each query sees, (b or 1, 1, t, s) bool; None for plain causal attention. The last query is the last
    key's."""
    length, so_far = query.shape[2], key.shape[2]
    if length == so_far and attention_mask is None and (sliding_window is None or sliding_window >= so_far):
        return None
    positions = torch.arange(so_far, device=query.device)
    ages = positions[so_far - length :, None] - positions  # (t, s)
    visible = (ages >= 0) if sliding_window is None else (ages >= 0) & (ages < sliding_window)
    visible = visible[None, None]
    if attention_mask is None:
        return visible
    # A padded query sees itself, else its softmax would be over nothing.
    return visible & attention_mask[:, None, None, :].bool() | (ages == 0)


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
) -> torch.Tensor:
    return F.scaled_dot_product_attention(
        *(query, key, value),
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _sequence_by_sequence(
    query: torch.Tensor,  # (tokens, h, d)
    key: torch.Tensor,  # (tokens, k, d)
    value: torch.Tensor,
    cu_seq_lens: torch.Tensor,
    scaling: float,
    sliding_window: int | None,
) -> torch.Tensor:
    outputs = []
    lengths = [length for length in cu_seq_lens.diff().tolist() if length]
    for q, k, v in zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True):
        q, k, v = (states.transpose(0, 1)[None] for states in (q, k, v))  # (1, heads, length, d)
        outputs.append(_sdpa(q, k, v, _visible(q, k, None, sliding_window), scaling)[0].transpose(0, 1))
    return torch.cat(outputs)
