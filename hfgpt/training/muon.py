"""Muon's orthogonalisation: a stack of matrices in, their nearest semi-orthogonal matrices out. Nothing here knows of
momentum, rates or processes."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from hfgpt.training import onednn

MOST_SHAPES = 64  # of stacks of one model
Product = Callable[..., Tensor]

# Polar Express (Amsel et al. 2025, arXiv:2505.16932): quintic polynomials x <- a x + (b x x^T + c (x x^T)^2) x, each
# the best for the singular values that the one before leaves. Those of the paper for five steps from 1e-3 on, with its
# safety factor of 2% inside, as nanochat has them.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def compute_dtype(device: torch.device) -> torch.dtype:
    """What matrices are orthogonalised in, and sent between processes in: bfloat16 on a GPU, where it is exact enough
    and fast, float32 elsewhere."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest semi-orthogonal matrix of each of (batch, rows, columns), approximately: the singular values come
    near 1, which is all that the update needs.

    Returns the same shape in `compute_dtype`. Compiled on a GPU, once for every shape. A matrix of zeros stays one.
    """
    x = matrices.to(compute_dtype(matrices.device))
    if x.is_cuda:
        return _compiled_polar_express()(x)
    large = x.shape[1] * x.shape[2] * min(x.shape[1:]) >= onednn.LEAST_MULTIPLICATIONS
    if x.device.type == "cpu" and large and onednn.onednn_is_faster():
        return polar_express(x, onednn.bmm, onednn.baddbmm)
    return polar_express(x)


def polar_express(x: Tensor, bmm: Product = torch.bmm, baddbmm: Product = torch.baddbmm) -> Tensor:
    """The polynomials on each of (batch, rows, columns), by these products."""
    tall = x.size(-2) > x.size(-1)
    if tall:  # the products below are then over the smaller side
        x = x.mT
    x = x / (1.01 * x.norm(dim=(-2, -1), keepdim=True) + 1e-7)  # the largest singular value is then below 1
    rows, columns = x.shape[-2:]
    if x.dtype == torch.float32 and columns >= 2 * rows:
        x = bmm(_polynomial_of_gram(bmm(x, x.mT), bmm, baddbmm), x)
    else:
        for a, b, c in POLAR_EXPRESS:
            gram = bmm(x, x.mT)
            x = baddbmm(x, baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a, alpha=1)
    return x.mT if tall else x


def _polynomial_of_gram(gram: Tensor, bmm: Product, baddbmm: Product) -> Tensor:
    """What they multiply a wide x by, from x x^T alone: the products are then of the small side only. The Gram matrix
    squares the condition number, which bfloat16 does not bear."""
    product = torch.empty(0)
    for step, (a, b, c) in enumerate(POLAR_EXPRESS):
        factor = baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor.diagonal(dim1=-2, dim2=-1).add_(a)
        product = bmm(factor, product) if step else factor
        if step + 1 < len(POLAR_EXPRESS):
            gram = bmm(bmm(factor, gram), factor)
    return product


@functools.cache
def _compiled_polar_express() -> Callable[[Tensor], Tensor]:
    compiled = torch.compile(polar_express, dynamic=False, fullgraph=True)

    def for_any_number_of_shapes(x: Tensor) -> Tensor:  # beyond eight of them torch would fail; KAN has more
        with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES):
            return compiled(x)

    return for_any_number_of_shapes
