"""Cross-entropy straight from hidden states and the head's matrix, a chunk of tokens at a time, so that the logits of
a batch never stand whole in memory. Pure torch, on any device; it travels inside every checkpoint."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

IGNORED = -100  # the label of a position without loss, as everywhere in transformers
# Most logits at a time. On a CPU a chunk has as many tokens as the model is wide, which keeps a small vocabulary's
# logits in the cache and the running sum of the head's gradient cheap beside them.
CPU_CHUNK_LOGITS = 2**24  # 64 MiB in float32
GPU_CHUNK_LOGITS = 2**28


def linear_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    softcap: float | None = None,
    matmul: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """Sum over tokens of cross_entropy(cap(hidden_states @ weight.T), targets) in nats: a float32 scalar.

    hidden_states (n, hidden_size); weight (vocab_size, hidden_size); targets (n,), -100 where there is no loss; cap is
    `softcap * tanh(logits / softcap)`. Gradients are made together with the loss, while a chunk's logits are at hand,
    so nothing is computed twice and the backward pass only scales them. Under autocast products are in its dtype;
    the softmax and the head's gradient are summed in float32. `matmul` multiplies two float32 matrices instead of
    torch's own.
    """
    dtype = product_dtype(hidden_states)
    if torch.is_grad_enabled() and (hidden_states.requires_grad or weight.requires_grad):
        apply = _apply_uncompiled if hidden_states.device.type == "cpu" else _LinearCrossEntropy.apply
        return apply(hidden_states, weight, targets, softcap, dtype, matmul if dtype == torch.float32 else None)
    return token_losses(hidden_states, weight, targets, softcap).sum()


@torch.no_grad()
def token_losses(
    hidden_states: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, softcap: float | None = None
) -> torch.Tensor:
    """Each token's loss in nats, (n,) in float32, 0 where the target is -100; arguments as above, no gradients."""
    dtype = product_dtype(hidden_states)
    weight = weight.to(dtype)
    losses = []
    with torch.autocast(hidden_states.device.type, enabled=False):
        for part in _chunks(hidden_states, weight):
            logits = _capped(hidden_states[part].to(dtype) @ weight.T, softcap)
            losses.append(F.cross_entropy(logits, targets[part], ignore_index=IGNORED, reduction="none"))
    return torch.cat(losses)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_states, weight, targets, softcap, dtype, matmul):
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        matrix, product = weight.to(dtype), matmul or torch.matmul
        total = torch.zeros((), dtype=torch.float32, device=weight.device)
        hidden_grad = torch.empty_like(hidden_states, dtype=dtype) if needs_hidden else None
        # (hidden_size, vocab_size): so the small operand of its product is turned in memory, not the large one.
        weight_grad = weight.new_zeros(weight.shape[::-1], dtype=torch.float32) if needs_weight else None
        with torch.autocast(hidden_states.device.type, enabled=False):
            for part in _chunks(hidden_states, weight):
                states = hidden_states[part].to(dtype)  # (n, hidden_size)
                logits = product(states, matrix.T).float()  # (n, vocab_size)
                if softcap is not None:
                    squashed = logits.div_(softcap).tanh_()
                    logits = squashed * softcap
                counted = (targets[part] != IGNORED).unsqueeze(1).float()
                target = targets[part].clamp(min=0).unsqueeze(1)
                # In place from here on: each new tensor of this size costs as much as the arithmetic on it.
                highest = logits.amax(dim=1, keepdim=True)
                target_logit = logits.gather(1, target) - highest
                odds = logits.sub_(highest).exp_()
                odds_sum = odds.sum(dim=1, keepdim=True)
                total += ((odds_sum.log() - target_logit) * counted).sum()
                # d loss / d logits = softmax - one-hot; through the cap times 1 - tanh^2.
                logits_grad = odds.mul_(counted / odds_sum).scatter_add_(1, target, -counted)
                if softcap is not None:
                    logits_grad.mul_(squashed.square_().neg_().add_(1))
                logits_grad = logits_grad.to(dtype)
                if hidden_grad is not None:
                    hidden_grad[part] = product(logits_grad, matrix)
                if weight_grad is not None and dtype == torch.float32 and matmul is None:
                    weight_grad.addmm_(states.T, logits_grad)
                elif weight_grad is not None:
                    weight_grad += product(states.T, logits_grad)
        ctx.save_for_backward(hidden_grad, weight_grad)
        ctx.dtypes = hidden_states.dtype, weight.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx, total_grad):
        hidden_grad, weight_grad = ctx.saved_tensors
        hidden_dtype, weight_dtype = ctx.dtypes
        if hidden_grad is not None:
            hidden_grad = (hidden_grad * total_grad).to(hidden_dtype)
        if weight_grad is not None:
            scaled = weight_grad.new_empty(weight_grad.shape[::-1])
            weight_grad = torch.mul(weight_grad.T, total_grad, out=scaled).to(weight_dtype)
        return hidden_grad, weight_grad, None, None, None, None


@torch.compiler.disable
def _apply_uncompiled(*args: Any) -> torch.Tensor:
    """On a CPU its chunks are many and already bound by their matrix products: unrolled in a compiled graph they made
    a 4-layer model's first step 8 times as long, and no later step shorter."""
    return _LinearCrossEntropy.apply(*args)


def product_dtype(hidden_states: torch.Tensor) -> torch.dtype:
    """What products are in: autocast's dtype where it is on, else that of the hidden states."""
    kind = hidden_states.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden_states.dtype


def _capped(logits: torch.Tensor, softcap: float | None) -> torch.Tensor:
    return logits.float() if softcap is None else softcap * torch.tanh(logits.float() / softcap)


def _chunks(hidden_states: torch.Tensor, weight: torch.Tensor) -> list[slice]:
    """Slices of tokens, all of one length but the last."""
    num_tokens, vocab_size = hidden_states.shape[0], weight.shape[0]
    if hidden_states.device.type == "cpu":
        size = min(max(128, hidden_states.shape[1]), CPU_CHUNK_LOGITS // vocab_size)
    else:
        size = GPU_CHUNK_LOGITS // vocab_size
    size = max(1, size)
    return [slice(start, start + size) for start in range(0, num_tokens, size)]
