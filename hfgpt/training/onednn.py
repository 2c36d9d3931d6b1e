"""Float32 matrix products on a CPU by oneDNN, where they are faster than torch's own.

torch gives every float32 product to MKL, which uses no AVX-512 on an AMD processor. The oneDNN that torch carries
does, and takes about half the time (benchmarks/cpu_products.md). Results differ by rounding.
"""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# m k n of a product that pays: a call of oneDNN's costs 20 us more than torch's.
LEAST_MULTIPLICATIONS = 2**21


def onednn_is_faster() -> bool:
    """Whether this is an AMD processor with AVX-512, and torch has oneDNN and may use it
    (`torch.backends.mkldnn.enabled`). By what the machine is and not by a trial, so that a run that goes on takes the
    same steps."""
    return (
        bool(torch.backends.mkldnn.enabled)
        and _is_amd_with_avx512()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@cache
def _is_amd_with_avx512() -> bool:
    if not torch.backends.mkldnn.is_available() or not torch.backends.mkl.is_available():
        return False
    try:
        processor = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # not Linux: not measured
    return "AuthenticAMD" in processor and "avx512f" in processor


def matmul(left: Tensor, right: Tensor) -> Tensor:
    """left @ right of two float32 matrices on a CPU; without gradients of its own.

    oneDNN wants the rows of its first operand one after another in memory, and takes the second either way. Where
    neither left nor right.T is so, the smaller is copied.
    """
    copied = [0 if operand.is_contiguous() else operand.numel() for operand in (left, right.T)]
    if copied[0] <= copied[1]:
        return _product(left, right.T)
    return _product(right.T, left).T


def baddbmm(addend: Tensor, left: Tensor, right: Tensor, beta: float, alpha: float) -> Tensor:
    """torch.baddbmm of stacks of matrices: beta * addend + alpha * left @ right."""
    return bmm(left, right).mul_(alpha).add_(addend, alpha=beta)


def bmm(left: Tensor, right: Tensor) -> Tensor:
    """torch.bmm of stacks of matrices."""
    return torch.stack([matmul(a, b) for a, b in zip(left, right, strict=True)])


class OneDNNLinear(nn.Linear):
    """nn.Linear by oneDNN, for float32 on a CPU outside of autocast, where the product is large enough."""

    def forward(self, inputs: Tensor) -> Tensor:
        usable = inputs.is_cpu and inputs.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not usable or inputs.numel() * self.out_features < LEAST_MULTIPLICATIONS:
            return super().forward(inputs)
        outputs = _Linear.apply(inputs.reshape(-1, self.in_features), self.weight)
        if self.bias is not None:
            outputs = outputs + self.bias
        return outputs.view(*inputs.shape[:-1], self.out_features)


class _Linear(torch.autograd.Function):
    """inputs (n, in) @ weight (out, in) transposed."""

    @staticmethod
    def forward(ctx, inputs, weight):
        ctx.save_for_backward(inputs, weight)
        return matmul(inputs, weight.T)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        inputs, weight = ctx.saved_tensors
        needs_inputs, needs_weight = ctx.needs_input_grad
        inputs_grad = matmul(gradient, weight) if needs_inputs else None
        weight_grad = matmul(gradient.T, inputs).contiguous() if needs_weight else None
        return inputs_grad, weight_grad


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left (m, k) @ right (n, k) transposed."""
    if torch.compiler.is_compiling():
        return torch.ops.hfgpt.onednn_product(left, right)
    return _multiply(left, right)


def _multiply(left: Tensor, right: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")


# torch.compile has rules of its own for oneDNN's operator, and would copy a second operand that is not contiguous. By
# torch.library.custom_op, which is simpler, a call takes 0.1 ms more.
_library = torch.library.Library("hfgpt", "DEF")
_library.define("onednn_product(Tensor left, Tensor right) -> Tensor", tags=(torch.Tag.needs_exact_strides,))
_library.impl("onednn_product", _multiply, "CPU")


@torch.library.register_fake("hfgpt::onednn_product", lib=_library)
def _product_shape(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(left.shape[0], right.shape[0])
