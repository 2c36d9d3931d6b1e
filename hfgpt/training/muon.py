"""Muon's orthogonalisation: a stack of matrices in, their nearest semi-orthogonal matrices out. Nothing here knows of
momentum, rates or processes."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

# Quintic Newton-Schulz coefficients of Keller Jordan's Muon (kellerjordan.github.io/posts/muon): five steps bring
# every singular value of a matrix of norm <= 1 into about [0.7, 1.2], which is all that the update needs.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def compute_dtype(device: torch.device) -> torch.dtype:
    """What matrices are orthogonalised in, and sent between processes in: bfloat16 on a GPU, where it is exact enough
    and fast, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """The nearest semi-orthogonal matrix of each of (batch, rows, columns), approximately, by Newton-Schulz.

    Returns the same shape in `compute_dtype`. Compiled on a GPU, once for every shape. A matrix of zeros stays one.
    """
    iterate = _compiled_newton_schulz() if matrices.is_cuda else newton_schulz
    return iterate(matrices.to(compute_dtype(matrices.device)), steps)


def newton_schulz(x: Tensor, steps: int) -> Tensor:
    """`steps` iterations of x <- a x + (b x x^T + c (x x^T)^2) x on each of (batch, rows, columns)."""
    a, b, c = NEWTON_SCHULZ
    tall = x.size(-2) > x.size(-1)
    if tall:  # the products below are then over the smaller side
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


@functools.cache
def _compiled_newton_schulz() -> Callable[[Tensor, int], Tensor]:
    return torch.compile(newton_schulz, dynamic=False, fullgraph=True)
