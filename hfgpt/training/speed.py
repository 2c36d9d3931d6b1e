"""What makes a run fast and leaves its results alone but for rounding, set on the model before its trainer is made."""

from functools import partial

import torch
from torch import nn
from transformers import TrainingArguments

from hfgpt.model import GPTForCausalLM
from hfgpt.model.linear_cross_entropy import linear_cross_entropy
from hfgpt.training.arguments import StageArguments
from hfgpt.training.attention import use_fastest_attention
from hfgpt.training.fp8 import use_fp8
from hfgpt.training.fused_loss import use_fused_loss
from hfgpt.training.hardware import keep_freed_memory
from hfgpt.training.onednn import OneDNNLinear, matmul, onednn_is_faster


def speed_up(model: GPTForCausalLM, args: StageArguments, attn_implementation: str | None) -> str:
    """For a stage of packed rows: attention (unless the recipe named one), fused loss, float8, oneDNN. Returns the
    plan's line about them.

    Raises UserError for what this machine or this model cannot have.
    """
    if attn_implementation is None:
        use_fastest_attention(model, args.device, bool(args.bf16 or args.fp16))
    use_fused_loss(model, args.fused_loss)
    products = "bfloat16" if args.bf16 else "float16" if args.fp16 else "float32"
    if use_cpu_well(model, args):
        products += " by oneDNN"
    if args.fp8:
        products = f"float8 in {use_fp8(model)} linears, else {products}"
    compiled = "compiled" if args.torch_compile else "not compiled"
    return (
        f"speed       {model.config._attn_implementation} attention, {args.fused_loss or 'chunked'} loss, {products}, "
        f"{compiled}"
    )


def use_cpu_well(model: GPTForCausalLM, args: TrainingArguments) -> bool:
    """Where the stage trains on a CPU: memory that is kept from step to step, and `use_onednn`, whose answer it
    returns."""
    if args.device.type != "cpu":
        return False
    keep_freed_memory()
    return use_onednn(model, args)


def use_onednn(model: GPTForCausalLM, args: TrainingArguments) -> bool:
    """`multiply_by_onednn` if the model trains in float32 on a CPU where that is faster; returns whether."""
    in_float32 = not (args.bf16 or args.fp16) and all(p.dtype == torch.float32 for p in model.parameters())
    if args.device.type != "cpu" or not in_float32 or not onednn_is_faster():
        return False
    multiply_by_onednn(model)
    return True


def multiply_by_onednn(model: GPTForCausalLM) -> None:
    """Let the linears of the blocks, and the head in the chunked loss, multiply by oneDNN. Linears stay
    nn.Linear, and nothing of it is saved."""
    for module in model.model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDNNLinear
    if model.linear_cross_entropy is linear_cross_entropy:
        model.linear_cross_entropy = partial(linear_cross_entropy, matmul=matmul)
