"""`hfgpt export MODEL --to auto --output_dir DIR`: a model of hfgpt as one that transformers ships, for tools that
know those alone. No code travels with it.

hfgpt export models/my_llama --output_dir exported             # whichever of gpt2, nanochat, llama, qwen3 fits
hfgpt export runs/gpt2/sft --to gpt2 --output_dir exported

What of the model the architecture cannot express is named, and nothing is written.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfgpt.chat.arguments import model_name, parser
from hfgpt.conversion.sources import check_output
from hfgpt.errors import UserError

if TYPE_CHECKING:
    from hfgpt.conversion.native import NativeFamily
    from hfgpt.model import GPTConfig

TARGETS = ("auto", "gpt2", "nanochat", "llama", "qwen3")


def main(argv: list[str]) -> None:
    """The command. Raises UserError for a model that does not fit; then nothing is written."""
    args = parse_args(argv)
    check_output(args.output_dir)
    source = model_name(args.model)

    from hfgpt.conversion.conversion import exported, prove_equal
    from hfgpt.conversion.folders import load_float32, load_own_tokenizer, write_whole
    from hfgpt.model import GPTForCausalLM  # registers with the Auto classes

    model, dtype = load_float32(source)
    if not isinstance(model, GPTForCausalLM):
        raise UserError(f"{args.model} is a {model.config.model_type} model of transformers already; use it as it is.")
    family = fitting_family(model.config, args.to, args.model)
    tokenizer = load_own_tokenizer(source, model.config.vocab_size)
    native = exported(model, family)
    difference = prove_equal(model, native)
    native.to(dtype)  # type: ignore[arg-type]
    write_whole(args.output_dir, native, tokenizer)
    print(
        f"{args.model} is in {args.output_dir} as {type(native).__name__}: {native.num_parameters():,} parameters, "
        f"logits in float32 equal to {difference:.0e} of the largest"
    )
    if lacking := family.lacking_elsewhere(model.config):
        print(
            f"careful: vLLM's or llama.cpp's own {family.name} lacks {' and '.join(lacking)}, and drops it in silence "
            "or refuses the model; transformers has it"
        )


def parse_args(argv: list[str]) -> argparse.Namespace:
    flags = parser("hfgpt export", __doc__ or "")
    flags.add_argument("model", metavar="MODEL", help="a model's folder, a run's folder, or a Hub id")
    flags.add_argument("--to", choices=TARGETS, default="auto", help="architecture (default: auto, the one that fits)")
    flags.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="folder to write, empty or new")
    return flags.parse_args(argv)


def fitting_family(config: "GPTConfig", target: str, name: str) -> "NativeFamily":
    """The architecture `target`, or for auto the first that expresses the model. Raises UserError naming each switch
    that stands in the way, for auto those of the architecture that comes nearest."""
    from hfgpt.conversion.conversion import FAMILIES

    candidates = list(FAMILIES.values()) if target == "auto" else [FAMILIES[target]]
    obstacles = {family.name: family.obstacles(config) for family in candidates}
    nearest = min(candidates, key=lambda family: len(obstacles[family.name]))
    in_the_way = obstacles[nearest.name]
    if not in_the_way:
        return nearest
    fits = (
        f"does not fit {target}" if target != "auto" else f"fits no architecture of transformers ({nearest.name} best)"
    )
    switches = ", ".join(f"{key} {_short(ours)} (not {_short(theirs)})" for key, (ours, theirs) in in_the_way.items())
    raise UserError(
        f"{name} {fits}: {switches}; use it as it is, by trust_remote_code=True, or train one with those switches."
    )


def _short(value: Any) -> str:
    """A switch's value as a recipe writes it; of a list only what is in it."""
    if isinstance(value, list):
        return "/".join(dict.fromkeys(value))
    return value if isinstance(value, str) else json.dumps(value)
