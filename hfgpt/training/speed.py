"""Everything that makes a packed-row run fast and leaves its results alone, set on the model before its trainer is
made."""

from hfgpt.model import GPTForCausalLM
from hfgpt.training.arguments import StageArguments
from hfgpt.training.attention import use_fastest_attention
from hfgpt.training.fp8 import use_fp8
from hfgpt.training.fused_loss import use_fused_loss


def speed_up(model: GPTForCausalLM, args: StageArguments, attn_implementation: str | None) -> str:
    """Choose attention (unless the recipe named one), fused loss and float8; returns the plan's line about them.

    Raises UserError for what this machine or this model cannot have.
    """
    if attn_implementation is None:
        use_fastest_attention(model, args.device, bool(args.bf16 or args.fp16))
    use_fused_loss(model, args.fused_loss)
    products = "float32"
    if args.bf16 or args.fp16:
        products = "bfloat16" if args.bf16 else "float16"
    if args.fp8:
        products = f"float8 in {use_fp8(model)} linears, else {products}"
    compiled = "compiled" if args.torch_compile else "not compiled"
    return (
        f"speed       {model.config._attn_implementation} attention, {args.fused_loss or 'chunked'} loss, {products}, "
        f"{compiled}"
    )
