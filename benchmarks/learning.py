"""How fast hfgpt learns, with depth alone set, against nanochat's defaults, GPT-2 with AdamW, and a Llama with torch's
Muon tuned by hand: same text, tokenizer, batches and held-out bytes, in one run.

    python benchmarks/learning.py --text DIR --nanochat CHECKOUT [--work a|b] [--seeds 1 2 3] [--tune]

Work a: depth 4, 200 steps of 8 rows of 256 tokens. Work b: depth 6, 4 million tokens. Full attention, heads of 64, a
vocabulary of 4,096. Writes benchmarks/learning_<work>.md and .json; with --tune it judges by the pieces to tune by and
writes nothing here. A side that has finished is kept in the folder, so a stopped run goes on by the same command.
"""

import argparse
import json
import statistics
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from learning_text import write_pieces
from machine import describe_machine

HERE = Path(__file__).resolve().parent
HFGPT = [sys.executable, "-m", "hfgpt.cli"]
CONTEXT = 256
VOCABULARY = 4096
Side = dict[str, Any]  # "machine", "commit" and "figures"
Figures = dict[str, float]  # step, seconds of training before it, tokens_per_second, bits_per_byte


@dataclass(frozen=True)
class Work:
    """One comparison: what every side trains."""

    depth: int
    rows: int  # in one step
    steps: int
    eval_steps: int
    gpt2_learning_rate: float
    gpt2_tried: str  # how that rate was chosen
    llama_rates: tuple[float, float]  # of AdamW and of Muon: the best for work a on the pieces to tune by


WORKS = {
    "a": Work(
        depth=4,
        rows=8,
        steps=200,
        eval_steps=20,
        gpt2_learning_rate=1e-3,
        gpt2_tried="the best of several at this depth and length, on other held-out pieces",
        llama_rates=(5e-2, 0.015),
    ),
    "b": Work(
        depth=6,
        rows=8,
        steps=1953,
        eval_steps=100,
        gpt2_learning_rate=1e-3,
        gpt2_tried="the better of 1e-3 and 5e-4 at this depth and length, by the judged text, in its favour",
        llama_rates=(5e-2, 0.015),
    ),
}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--text", type=Path, required=True, help="Folder of .txt and .jsonl files.")
    parser.add_argument("--nanochat", type=Path, help="nanochat's checkout; without it that side is left out.")
    parser.add_argument("--work", choices=WORKS, default="a")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="Of hfgpt; rivals take the first.")
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"), help="Where everything is made.")
    parser.add_argument("--tune", action="store_true", help="Judge by the pieces to tune by.")
    parser.add_argument("--sides", nargs="+", default=["hfgpt", "nanochat", "gpt2", "llama"])
    parser.add_argument("--gpt2_learning_rate", type=float, help="Instead of the work's own, to tune it.")
    parser.add_argument("--llama_learning_rates", type=float, nargs=2, help="Of AdamW and of Muon, likewise.")
    parser.add_argument("--steps", type=int, help="Instead of the work's own, to tune by.")
    parser.add_argument("--shared", action="store_true", help="The machine does other work: leave out what is speed.")
    return parser.parse_args()


def write_recipe(folder: Path, work: Work, validation_fraction: float) -> Path:
    """The recipe of the hfgpt side: `depth` and what the work fixes for every side; nothing else is set."""
    recipe: dict[str, Any] = {
        "model": {"depth": work.depth, "head_dim": 64, "sliding_window": 0},
        "tokenizer": {"vocab_size": VOCABULARY},
        "data": {
            "data_path": str(folder / "pieces.jsonl"),
            "max_length": CONTEXT,
            "validation_fraction": validation_fraction,
            "num_proc": 1,
        },
        "pretrain": {
            "max_steps": work.steps,
            "per_device_train_batch_size": work.rows,
            "total_batch_size": work.rows * CONTEXT,
            "eval_steps": work.eval_steps,
            "torch_compile": True,  # as nanochat does
            "save_strategy": "no",
            "sample_steps": 0,
        },
    }
    path = folder / "learning.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return path


def train_hfgpt(recipe: Path, folder: Path, seed: int) -> list[Figures]:
    """`hfgpt pretrain`, as a user types it; its held-out figures."""
    stage = folder / f"hfgpt-{seed}" / "pretrain"
    folders = ["--output_root", folder, "--output_dir", stage]
    run([*HFGPT, "pretrain", recipe, *folders, "--data.seed", seed, "--overwrite", "--disable_tqdm", "true"])
    records = [json.loads(line) for line in (stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    usual = statistics.median(record["tokens_per_second"] for record in records if "tokens_per_second" in record)
    return [
        {
            "step": record["step"],
            "seconds": record["tokens"] / usual,
            "tokens_per_second": usual,
            "bits_per_byte": record["val_bits_per_byte"],
        }
        for record in records
        if "val_bits_per_byte" in record
    ]


def train_rival(side: str, prepared: Path, work: Work, seed: int, options: list[Any]) -> list[Figures]:
    """A rival in a process of its own; its held-out figures."""
    command = [sys.executable, HERE / "learning_rivals.py", side, "--prepared", prepared, "--seed", seed]
    command += ["--tokenizer", prepared.parent.parent / "tokenizer", "--depth", work.depth, "--rows", work.rows]
    command += ["--steps", work.steps, "--eval_steps", work.eval_steps, *options]
    lines = run(command).splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def kept(path: Path, train: Callable[[], list[Figures]], source: Path) -> Side:
    """One side: what an earlier run left in `path`, or what training it now gives, with the machine and the commit of
    the repository `source` that it was trained by."""
    if not path.exists():
        made = {"machine": describe_machine(), "commit": commit_of(source), "figures": train()}
        path.write_text(json.dumps(made), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def commit_of(repository: Path) -> str:
    done = subprocess.run(["git", "-C", repository, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def run(command: list[Any]) -> str:
    """Standard output of a command that must succeed."""
    words = [str(word) for word in command]
    print("$", " ".join(words), flush=True)
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\n{done.stderr}")
    return done.stdout


def provenance(sides: dict[str, Side]) -> str:
    """Which sides were trained on which machine, by which commits."""
    machines: dict[str, list[str]] = {}
    for name, side in sides.items():
        machines.setdefault(side["machine"], []).append(f"{name} ({side['commit']})")
    return "\n\n".join(f"Machine of {'; '.join(names)}: {machine}" for machine, names in machines.items())


def table(figures: dict[str, list[Figures]], of_speed: bool) -> str:
    """Last figures of every side, and the part of nanochat's run after which it had reached nanochat's last figure:
    of its seconds, or without speed of its tokens."""
    unit = "seconds" if of_speed else "step"
    speed = "tokens/s | seconds | " if of_speed else ""
    lines = [f"| side | bits per byte | {speed}reaches nanochat's last figure |"]
    lines.append("|---" * (5 if of_speed else 3) + "|")
    goal = figures["nanochat"][-1] if "nanochat" in figures else None
    for side, trail in figures.items():
        last = trail[-1]
        cells = [side, f"{last['bits_per_byte']:.4f}"]
        if of_speed:
            cells += [f"{last['tokens_per_second']:,.0f}", f"{last['seconds']:.0f}"]
        there = next((f for f in trail if goal and f["bits_per_byte"] <= goal["bits_per_byte"]), None)
        if goal and there:
            cells.append(f"{unit} {there[unit]:,.0f} ({there[unit] / goal[unit]:.2f} of its)")
        else:
            cells.append("never" if goal else "-")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def report(name: str, work: Work, sides: dict[str, Side], statistics_of_text: dict[str, Any], of_speed: bool) -> str:
    """The whole record in Markdown."""
    figures = {side: made["figures"] for side, made in sides.items()}
    ours = [trail[-1]["bits_per_byte"] for side, trail in figures.items() if side.startswith("hfgpt")]
    spread = f" (standard deviation {statistics.stdev(ours):.4f})" if len(ours) > 1 else ""
    mean = f"Mean of hfgpt's {len(ours)} seeds: {statistics.mean(ours):.4f} bits per byte{spread}." if ours else ""
    held_out = statistics_of_text["validation"]
    adamw, muon = work.llama_rates
    rivals = {
        "nanochat": "nanochat with its defaults, its rates scaled to the batch as it scales them (compiled)",
        "GPT-2, AdamW": f"GPT-2 with AdamW at {work.gpt2_learning_rate:g} through HF's Trainer (not compiled)",
        "Llama, Muon": f"Llama in a plain loop with torch's Muon at {muon:g} and AdamW at {adamw:g} (not compiled)",
    }
    tuned = ""
    if "GPT-2, AdamW" in figures:
        tuned += f"GPT-2's rate is {work.gpt2_tried}. "
    if "Llama, Muon" in figures:
        tuned += "Llama's rates are the best of several at depth 4 over 200 steps, on other held-out pieces. "
    seconds = (
        "Seconds are tokens over the median speed, without compilation and evaluations."
        if of_speed
        else "The machine did other work meanwhile, so there are no figures of speed."
    )
    what = f"""Depth {work.depth}, width {64 * work.depth}, heads of 64, full attention, context {CONTEXT}, {work.rows}
rows a step, vocabulary {VOCABULARY:,}, {work.steps:,} steps = {work.steps * work.rows * CONTEXT:,} tokens in
{work.steps * work.rows:,} rows, of {statistics_of_text["train"]["rows"]:,} distinct ones. Judged on
{held_out["text_bytes"]:,} bytes of held-out text by which no rate of hfgpt was chosen. Every side reads the same
rows in the same order and is judged on the same rows; hfgpt with `depth` and what is said here alone
(compiled){"".join(f", {how}" for side, how in rivals.items() if side in figures)}.
Attention crosses documents within a row in the others, as theirs does, and not in hfgpt. {tuned}{seconds}"""
    return f"""# Learning: work {name}

`python benchmarks/learning.py --text DIR --nanochat CHECKOUT --work {name}{"" if of_speed else " --shared"}`

{textwrap.fill(" ".join(what.split()), 119, break_on_hyphens=False)}

{table(figures, of_speed)}

{mean}

{provenance(sides)}
"""


def main() -> None:
    arguments = parse_arguments()
    work = WORKS[arguments.work]
    work = replace(
        work,
        steps=arguments.steps or work.steps,
        gpt2_learning_rate=arguments.gpt2_learning_rate or work.gpt2_learning_rate,
        gpt2_tried="given" if arguments.gpt2_learning_rate else work.gpt2_tried,
        llama_rates=tuple(arguments.llama_learning_rates or work.llama_rates),
    )
    folder = arguments.folder / (arguments.work + ("-tune" if arguments.tune else ""))
    folder.mkdir(parents=True, exist_ok=True)
    fraction = write_pieces(arguments.text, folder / "pieces.jsonl", arguments.tune)
    recipe = write_recipe(folder, work, fraction)
    run([*HFGPT, "data", "prepare", recipe, "--output_root", folder])
    (record,) = (folder / recipe.stem / "data").glob("*/prepared.json")
    prepared = record.parent
    sides: dict[str, Side] = {}
    if "hfgpt" in arguments.sides:
        for seed in arguments.seeds:
            done = folder / f"hfgpt-{seed}-{work.steps}.json"
            sides[f"hfgpt, seed {seed}"] = kept(done, lambda seed=seed: train_hfgpt(recipe, folder, seed), HERE)
    seed = arguments.seeds[0]
    if "nanochat" in arguments.sides and arguments.nanochat:
        options = ["--checkout", arguments.nanochat, "--compile"]
        done = folder / f"nanochat-{seed}-{work.steps}.json"
        train = partial(train_rival, "nanochat", prepared, work, seed, options)
        sides["nanochat"] = kept(done, train, arguments.nanochat)
    if "gpt2" in arguments.sides:
        gpt2_options = ["--learning_rate", work.gpt2_learning_rate]
        done = folder / f"gpt2-{work.gpt2_learning_rate:g}-{seed}-{work.steps}.json"
        sides["GPT-2, AdamW"] = kept(done, partial(train_rival, "gpt2", prepared, work, seed, gpt2_options), HERE)
    if "llama" in arguments.sides:
        adamw, muon = work.llama_rates
        llama_options = ["--learning_rate", adamw, "--muon_learning_rate", muon]
        done = folder / f"llama-{adamw:g}-{muon:g}-{seed}-{work.steps}.json"
        sides["Llama, Muon"] = kept(done, partial(train_rival, "llama", prepared, work, seed, llama_options), HERE)
    statistics_of_text = json.loads(record.read_text(encoding="utf-8"))["statistics"]
    if arguments.shared:  # seconds of a machine that did other work say nothing
        for figures in (figures for side in sides.values() for figures in side["figures"]):
            for speed in ("seconds", "tokens_per_second"):
                figures.pop(speed, None)
    text = report(arguments.work, work, sides, statistics_of_text, of_speed=not arguments.shared)
    print(text)
    if not arguments.tune:
        path = HERE / f"learning_{arguments.work}.md"
        path.write_text(text, encoding="utf-8")
        path.with_suffix(".json").write_text(json.dumps(sides, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
