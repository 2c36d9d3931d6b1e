"""`hfgpt import SRC --output_dir DIR`: a model that others trained becomes a model of hfgpt, its weights unchanged.

hfgpt import openai-community/gpt2 --output_dir models/gpt2          # of the Hub: gpt2, llama, nanochat or qwen3
hfgpt import my_llama --output_dir models/my_llama                   # or a folder that transformers saved
hfgpt import my_nanochat/d20 --output_dir models/nanochat-d20        # nanochat's model_*.pt and meta_*.json
hfgpt import my_nanochat/d20 --base --output_dir models/d20-base     # as a base model, wherever it lies

The vocabulary stays as it is. A stage that starts from the model adds the chat tokens:
hfgpt sft recipes/tiny.yaml --model_name_or_path models/gpt2
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hfgpt.chat.arguments import parser
from hfgpt.conversion.sources import check_output, local_source
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from hfgpt.model import GPTForCausalLM


def main(argv: list[str]) -> None:
    """The command. Raises UserError for a model that cannot be expressed; then nothing is written."""
    args = parse_args(argv)
    check_output(args.output_dir)
    source = local_source(args.source, args.revision)

    from hfgpt.conversion.folders import write_whole
    from hfgpt.conversion.nanochat_checkpoint import find_checkpoint, import_checkpoint

    checkpoint = find_checkpoint(source)
    if checkpoint is not None:
        model, tokenizer, note = import_checkpoint(checkpoint, args.tokenizer, args.is_base)
    elif args.is_base is None:
        model, tokenizer, note = import_native(source, args.source, args.tokenizer)
    else:
        raise UserError(
            "--base and --chat are for nanochat's own checkpoints: other models say in generation_config.json at "
            "which tokens they stop."
        )
    write_whole(args.output_dir, model, tokenizer)
    print(f"{args.source} is in {args.output_dir}: {model.num_parameters():,} parameters, {note}")


def parse_args(argv: list[str]) -> argparse.Namespace:
    flags = parser("hfgpt import", __doc__ or "")
    flags.add_argument("source", metavar="SRC", help="a folder of transformers, a Hub id, or a nanochat checkpoint")
    flags.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="folder to write, empty or new")
    flags.add_argument("--tokenizer", metavar="T", help="tokenizer, by folder or Hub id (default: the one in SRC)")
    flags.add_argument("--revision", metavar="R", help="branch, tag or commit of a model of the Hub")
    kind = flags.add_mutually_exclusive_group()
    kind.add_argument(
        "--base",
        dest="is_base",
        action="store_const",
        const=True,
        help="the nanochat checkpoint is a base model, which stops where the next document would begin, too "
        "(default: if base_checkpoints is in its path)",
    )
    kind.add_argument("--chat", dest="is_base", action="store_const", const=False, help="it is a chat model")
    return flags.parse_args(argv)


def import_native(
    folder: Path, name: str, tokenizer_name: str | None
) -> "tuple[GPTForCausalLM, PreTrainedTokenizerFast, str]":
    """The model of transformers in `folder` as ours, its tokenizer, and the proof that both compute the same."""
    from hfgpt.conversion.conversion import FAMILIES, imported, prove_equal
    from hfgpt.conversion.folders import load_float32, load_own_tokenizer

    if not (folder / "config.json").is_file() and not (folder / "adapter_config.json").is_file():
        raise UserError(f"{name} holds no model: neither config.json nor nanochat's model_*.pt and meta_*.json.")
    native, dtype = load_float32(str(folder))
    kind = native.config.model_type
    if kind == "hfgpt":
        raise UserError(f"{name} is a model of hfgpt already; use it as it is.")
    if kind not in FAMILIES:
        raise UserError(
            f"{name} is a {kind} model, which hfgpt cannot express: {', '.join(FAMILIES)} can be imported."
        )
    tokenizer = load_own_tokenizer(tokenizer_name or str(folder), native.config.vocab_size)
    model = imported(native, FAMILIES[kind])
    difference = prove_equal(native, model)
    model.to(dtype)  # type: ignore[arg-type]
    return model, tokenizer, f"logits in float32 as in {kind} to {difference:.0e} of the largest"
