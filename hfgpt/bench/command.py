"""`hfgpt bench RECIPE [--vs trainer loop nanochat]`: speed, memory and decoding of a recipe on this machine.

    hfgpt bench recipes/tiny.yaml --vs loop trainer
    hfgpt bench recipes/d12.yaml --vs trainer loop nanochat --nanochat ../nanochat

Random tokens, so nothing is downloaded or prepared. `python -m hfgpt.bench` is the same.
"""

import datetime
import json as jsonlib
import platform
import time
import typing
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from hfgpt.bench.machine import load_average, package_versions, processor_name
from hfgpt.bench.report import LOOP, OURS, as_table, command_line, side_figures, trainer_overhead, write_report
from hfgpt.bench.sides import serve_side
from hfgpt.bench.turns import SideProcess
from hfgpt.bench.workload import STAGE, Workload, make_workload
from hfgpt.cores import available_cores
from hfgpt.errors import UserError
from hfgpt.recipe import DEFAULT_RECIPE, Recipe, load_recipe, split_flags
from hfgpt.recipe_values import coerce
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.hardware import dense_peak_flops

RIVALS = ("trainer", "loop", "nanochat")
WARMUP_STEPS = 3
DECODED_ROWS = (1, 16)


@dataclass
class BenchArguments:
    """The flags of `hfgpt bench` itself; every other is a key of the recipe."""

    vs: list[str] = field(default_factory=list, metadata={"help": "Other sides: trainer, loop, nanochat."})
    nanochat: str | None = field(default=None, metadata={"help": "A checkout of nanochat's repository."})
    steps: int = field(default=20, metadata={"help": "Counted steps of each side."})
    rounds: int = field(default=5, metadata={"help": "Turns that the sides take, in which these steps are made."})
    decode_tokens: int = field(default=128, metadata={"help": "Tokens decoded for each row; 0 for no decoding."})
    output_dir: str = field(default="benchmarks", metadata={"help": "Folder for the report, as JSON and Markdown."})
    json: bool = field(default=False, metadata={"help": "Print JSON."})

    def __post_init__(self) -> None:
        for side in self.vs:
            if side not in RIVALS:
                raise UserError(f"--vs {side} is not a side: name some of {', '.join(RIVALS)}.")
        if self.nanochat and "nanochat" not in self.vs:
            self.vs = [*self.vs, "nanochat"]
        if "nanochat" in self.vs and not self.nanochat:
            raise UserError("--vs nanochat needs --nanochat DIR, a checkout of https://github.com/karpathy/nanochat.")
        if not 1 <= self.rounds <= self.steps:
            raise UserError(f"--rounds {self.rounds} must lie between 1 and --steps {self.steps}.")
        if self.decode_tokens < 0:
            raise UserError(f"--decode_tokens {self.decode_tokens} must be 0 or more.")

    @property
    def sides(self) -> list[str]:
        return list(dict.fromkeys([OURS, *self.vs]))


def main(argv: list[str]) -> None:
    """Measure, print the table, and leave the report in `output_dir`."""
    own, recipe, changes = read_arguments(argv)
    workload = make_workload(recipe)  # what is wrong with the recipe is said before any side starts
    report = _about(workload, recipe, own, command_line(argv)) | {"recipe_changes": changes}
    if not own.json:
        print(f"{report['workload']}\n{report['device']}, {len(own.sides)} side(s)", flush=True)
    report["sides"] = measure(own, recipe, workload, report.get("peak_flops"))
    if LOOP in report["sides"]:
        report["trainer_overhead"] = trainer_overhead(report["sides"], with_cpu_time=workload.device.type == "cpu")
    ours = report["sides"][OURS]
    report |= {name: ours[name] for name in ("tokens_per_second", "seconds_per_step", "mfu") if name in ours}
    paths = write_report(report, Path(own.output_dir))
    if own.json:
        print(jsonlib.dumps(report, indent=1))
    else:
        print(f"\n{as_table(report)}\n\nwritten: {', '.join(map(str, paths))}")


def read_arguments(argv: list[str]) -> tuple[BenchArguments, Recipe, list[str]]:
    """The benchmark's own flags, the recipe with all others, and those others. Raises UserError for what neither
    knows."""
    named = argv[0] if argv and not argv[0].startswith("--") else DEFAULT_RECIPE
    hints = typing.get_type_hints(BenchArguments)
    given: dict[str, Any] = {}
    changes: list[str] = []
    for flag, words in split_flags(argv[1:] if argv[:1] == [named] else argv):
        if flag not in {f.name for f in fields(BenchArguments)}:
            changes += [f"--{flag}", *words]
            continue
        value = words if flag == "vs" else words[0] if len(words) == 1 else not words
        try:
            given[flag] = coerce(value, hints[flag])
        except ValueError as error:
            raise UserError(f"flag --{flag} {error}.") from None
    return replace(BenchArguments(), **given), load_recipe([named, *changes], STAGE, PretrainArguments), changes


def measure(
    own: BenchArguments, recipe: Recipe, workload: Workload, peak_flops: float | None
) -> dict[str, dict[str, Any]]:
    """Every side's figures. Sides wait for each other, so that one alone works at any time, and every second round
    goes the other way round."""
    steps = own.steps // own.rounds
    processes: dict[str, SideProcess] = {}
    first: dict[str, float] = {}
    rounds: dict[str, list[tuple[float, float]]] = {name: [] for name in own.sides}
    decoded: dict[str, dict[int, list[float]]] = {name: {n: [] for n in DECODED_ROWS} for name in own.sides}
    try:
        for name in own.sides:
            start = time.perf_counter()
            processes[name] = SideProcess(name, serve_side, name, recipe, own.nanochat, own.decode_tokens)
            processes[name].ask("train", WARMUP_STEPS)
            first[name] = time.perf_counter() - start
            _say(own, f"{name}: ready after {first[name]:.1f} s")
        for number in range(own.rounds):
            for name in own.sides[:: -1 if number % 2 else 1]:
                rounds[name].append(processes[name].ask("train", steps))
            spent = ", ".join(f"{name} {turns[-1][0]:.3g}" for name, turns in rounds.items())
            _say(own, f"round {number + 1} of {own.rounds}: s/step {spent}")
        about = {name: process.ask("stop") for name, process in processes.items()}
        for number in range(own.rounds + 1 if own.decode_tokens else 0):
            for name in own.sides[:: -1 if number % 2 else 1]:
                for rows in DECODED_ROWS:
                    rate = processes[name].ask("decode", rows)
                    if number and rate is not None:  # the first round warms up
                        decoded[name][rows].append(rate)
    finally:
        for process in processes.values():
            process.end()
    return {
        name: side_figures(
            rounds[name],
            decoded[name],
            about[name],
            first_turn_seconds=first[name],
            tokens_per_step=workload.tokens_per_step,
            peak_flops=peak_flops,
        )
        for name in own.sides
    }


def _about(workload: Workload, recipe: Recipe, own: BenchArguments, command: str) -> dict[str, Any]:
    """What the figures belong to: recipe, device, peak, versions."""
    a, batch, on_gpu = workload.architecture, workload.plan.batch, workload.device.type == "cuda"
    device = torch.cuda.get_device_name() if on_gpu else processor_name()
    load = load_average()
    report: dict[str, Any] = {
        "kind": "bench",
        "recipe": recipe.name,
        "device": device,
        "command": command,
        "date": str(datetime.date.today()),
        "workload": (
            f"{a['num_hidden_layers']} layers, {a['hidden_size']} wide, {a['num_attention_heads']} heads, vocabulary "
            f"{a['vocab_size']:,}; a step is {batch.max_length:,} x {batch.per_device_batch_size} rows x "
            f"{batch.grad_accum_steps} accumulation = {batch.tokens_per_step:,} tokens, in "
            f"{'bfloat16' if workload.args.bf16 else 'float32'}."
        ),
        "tokens_per_step": batch.tokens_per_step,
        "flops_per_token": workload.plan.flops_per_token,
        "rounds": own.rounds,
        "steps_per_round": own.steps // own.rounds,
        "decode_tokens": own.decode_tokens,
        "versions": package_versions(),
        "python": platform.python_version(),
        "processor": processor_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "load_average": None if load is None else round(load, 1),
    }
    peak = dense_peak_flops(device) if on_gpu and workload.args.bf16 else None
    return report | ({"peak_flops": peak} if peak else {})


def _say(own: BenchArguments, line: str) -> None:
    if not own.json:
        print(line, flush=True)
