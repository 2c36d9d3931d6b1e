"""What each switch of the depth series is worth: every one turned alone, at equal FLOPs, on the text of the learning
benchmark.

    python benchmarks/ablations.py --text DIR --depths 2 4 --seeds 1 2 [--only no-bigrams kan] [--steps 200]

Each run is one of `hfgpt sweep`, judged by the pieces to tune by, so a stopped run goes on by the same command.
Writes benchmarks/ablations.md and .json; what stands there of other switches and depths, by the same steps and seeds,
stays.
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any

from learning import CONTEXT, HFGPT, WORKS, run, write_recipe
from learning_text import write_pieces
from machine import describe_machine

HERE = Path(__file__).resolve().parent
BASE = "as it is"
# The flags of `hfgpt sweep` that turn one switch away from what `depth` sets.
ABLATIONS: dict[str, list[str]] = {
    BASE: [],
    "no-bigrams": ["--bigram_vocab_size", "0"],
    "half-the-bigrams": ["--bigram_vocab_size", "32768"],
    "no-value-embeddings": ["--value_embeddings", "false"],
    "no-residual-scalars": ["--residual_scalars", "false"],
    "smear": ["--smear", "true"],
    "backout": ["--backout", "true"],
    "no-embedding-norm": ["--embedding_norm", "false"],
    "no-qk-norm": ["--qk_norm", "false"],
    "no-soft-cap": ["--final_logit_softcapping", "0"],
    "tied": ["--tie_word_embeddings", "true"],
    "gelu": ["--mlp_type", "gelu"],
    "swiglu": ["--mlp_type", "swiglu"],
    "layernorm": ["--norm_type", "layernorm", "--norm_weight", "true"],
    "norm-weights": ["--norm_weight", "true"],
    "learned-positions": ["--position_embedding_type", "learned"],
    "rope-10000": ["--rope_theta", "10000"],
    "one-kv-head": ["--num_key_value_heads", "1"],
    "kan": ["--linear_type", "kan"],
    "adamw": ["--optim", "adamw_torch_fused", "--learning_rate", "1e-3"],
    "adamw-3e-3": ["--optim", "adamw_torch_fused", "--learning_rate", "3e-3"],
    "adamw-1e-2": ["--optim", "adamw_torch_fused", "--learning_rate", "1e-2"],
}
Losses = dict[str, dict[int, list[float]]]  # bits per byte by ablation and depth, one a seed


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="Folder of .txt and .jsonl files.")
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="Two or more.")
    parser.add_argument("--steps", type=int, default=200, help="Steps of 2,048 tokens whose FLOPs every run gets.")
    parser.add_argument("--only", nargs="+", choices=[name for name in ABLATIONS if name != BASE])
    parser.add_argument("--folder", type=Path, default=Path("runs/ablations"), help="Where everything is made.")
    return parser.parse_args()


def flops_of_base(recipe: Path, folder: Path, depth: int, steps: int) -> float:
    """FLOPs of `steps` steps of the depth series' model as it is."""
    plan = json.loads(
        run([*HFGPT, "plan", recipe, "--output_root", folder, "--depth", depth, "--max_steps", steps, "--json"])
    )
    return plan["flops"]


def losses_of(name: str, recipe: Path, folder: Path, depth: int, flops: float, seeds: list[int]) -> list[float]:
    """Held-out bits per byte of one ablation at one depth, a seed each; empty where a run's loss grew until its guards
    stopped it."""
    sweep = f"d{depth}-{name.replace(' ', '-')}"
    options = ["--output_root", folder, "--name", sweep, "--depth", depth, "--torch_compile", "false"]
    # One evaluation, at the end; and a length of its own, for the FLOPs that all get.
    options += ["--target_flops", f"{flops:.6e}", "--max_steps", -1, "--eval_steps", 10**9]
    try:
        run([*HFGPT, "sweep", recipe, *options, *ABLATIONS[name], "--data.seed", *seeds])
    except SystemExit as failure:
        if "guard_limit" not in str(failure):
            raise
        return []
    table = json.loads((folder / f"{recipe.stem}-{sweep}" / "sweep.json").read_text(encoding="utf-8"))
    return [row["val_bits_per_byte"] for row in table["runs"]]


def report(losses: Losses, steps: int, seeds: list[int]) -> str:
    """The table in Markdown: the change of the mean loss by each ablation, worst at the least depth first."""
    depths = sorted({depth for by_depth in losses.values() for depth in by_depth})
    lines = ["| turned | " + " | ".join(f"d{depth}" for depth in depths) + " |", "|---|" + "---|" * len(depths)]
    base = {depth: statistics.mean(losses[BASE][depth]) for depth in depths}
    lines.append(f"| {BASE} | " + " | ".join(f"{base[depth]:.4f}" for depth in depths) + " |")
    changes = {
        name: {
            depth: statistics.mean(values) - base[depth] if values else math.inf for depth, values in by_depth.items()
        }
        for name, by_depth in losses.items()
        if name != BASE
    }
    for name, by_depth in sorted(changes.items(), key=lambda item: -item[1].get(depths[0], 0.0)):
        cells = " | ".join(_cell(by_depth.get(depth)) for depth in depths)
        lines.append(f"| `{' '.join(ABLATIONS[name])}` | {cells} |")
    spreads = ", ".join(f"{statistics.stdev(losses[BASE][depth]):.4f} at d{depth}" for depth in depths)
    return f"""# Ablations

`python benchmarks/ablations.py --text DIR --depths {" ".join(map(str, depths))} --seeds \
{" ".join(map(str, seeds))} --steps {steps}`

Bits per byte on held-out pieces, mean of {len(seeds)} seeds, after the FLOPs of {steps} steps of
{WORKS["a"].rows * CONTEXT:,} tokens; below the first row the change, more is worse. The seeds of the first row have a
standard deviation of {spreads}. "-" was not run.

{chr(10).join(lines)}

Machine: {describe_machine()}
"""


def _cell(change: float | None) -> str:
    if change is None:
        return "-"
    return "diverged" if math.isinf(change) else f"{change:+.4f}"


def earlier(path: Path, setting: dict[str, Any]) -> Losses:
    """What stands in `path` of the same setting."""
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if record.get("setting") != setting:
        return {}
    return {name: {int(d): values for d, values in found.items()} for name, found in record["losses"].items()}


def main() -> None:
    arguments = parse_arguments()
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    fraction = write_pieces(arguments.text, folder / "pieces.jsonl", tune=True)
    recipe = write_recipe(folder, WORKS["a"], fraction)
    run([*HFGPT, "data", "prepare", recipe, "--output_root", folder])
    setting = {"steps": arguments.steps, "seeds": arguments.seeds}
    losses = earlier(HERE / "ablations.json", setting)
    for name in [BASE, *(arguments.only or [name for name in ABLATIONS if name != BASE])]:
        losses.setdefault(name, {})
        for depth in arguments.depths:
            flops = flops_of_base(recipe, folder, depth, arguments.steps)
            losses[name][depth] = losses_of(name, recipe, folder, depth, flops, arguments.seeds)
            print(name, depth, losses[name][depth], flush=True)
    text = report(losses, **setting)
    print(text)
    (HERE / "ablations.md").write_text(text, encoding="utf-8")
    (HERE / "ablations.json").write_text(
        json.dumps({"setting": setting, "losses": losses}, indent=1), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
