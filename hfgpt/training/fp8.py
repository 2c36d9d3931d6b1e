"""Training with float8 products, by torchao: the linears of the blocks, never the head, embeddings or gates."""

import torch
from torch import nn

from hfgpt.errors import UserError
from hfgpt.model import GPTForCausalLM


def use_fp8(model: GPTForCausalLM) -> int:
    """Let the large linears of `model`'s blocks multiply in float8 (Micikevicius et al. 2022, arXiv:2209.05433), each
    tensor with a scale of its own; returns how many. Weights, gradients and checkpoints stay as they were. Has not run
    yet, for want of a GPU.

    Raises UserError without torchao or a GPU that multiplies in float8 (compute capability 8.9 or above).
    """
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9):
        raise UserError("fp8 needs a GPU that multiplies in float8 (Ada, Hopper or newer): leave it out.")
    try:
        from torchao.float8 import convert_to_float8_training
    except ImportError:
        raise UserError("fp8 needs torchao: pip install torchao, or leave it out.") from None
    convert_to_float8_training(model, module_filter_fn=is_large_linear)
    return sum(is_large_linear(module, name) for name, module in model.named_modules())


def is_large_linear(module: nn.Module, name: str) -> bool:
    """Whether a module, by its name in the model, is a linear that float8 kernels take: both sides multiples of 16."""
    if not isinstance(module, nn.Linear) or ".layers." not in f".{name}" or name.endswith("value_gate"):
        return False
    return module.in_features % 16 == 0 and module.out_features % 16 == 0
