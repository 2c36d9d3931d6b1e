"""A benchmark's figures as JSON, as a table and as a page for `benchmarks/`."""

import hashlib
import json
import math
import re
import shlex
import statistics
from pathlib import Path
from typing import Any

from hfgpt.report.tables import markdown_table

OURS, LOOP = "hfgpt", "loop"
NAMES = {
    "hfgpt": "hfgpt",
    "loop": "bare loop, same model",
    "trainer": "HF Trainer, AdamW, GPT-2",
    "nanochat": "nanochat",
}


def side_figures(
    rounds: list[tuple[float, float]],
    decoded: dict[int, list[float]],
    about: dict[str, Any],
    *,
    first_turn_seconds: float,
    tokens_per_step: int,
    peak_flops: float | None,
) -> dict[str, Any]:
    """One side's figures. `rounds` are its seconds and CPU seconds a step, `decoded` its tokens a second by the
    rows of a batch."""
    seconds = statistics.median(wall for wall, _ in rounds)
    figures = {
        "seconds_per_step": seconds,
        "seconds_per_step_by_round": [round(wall, 5) for wall, _ in rounds],
        "cpu_seconds_per_step_by_round": [round(cpu, 5) for _, cpu in rounds],
        "steps_per_second": 1 / seconds,
        "tokens_per_second": tokens_per_step / seconds,
        "decode_tokens_per_second": {str(rows): statistics.median(rates) for rows, rates in decoded.items() if rates},
        "first_turn_seconds": round(first_turn_seconds, 2),
        **about,
    }
    if peak_flops:
        figures["mfu"] = tokens_per_step * about["flops_per_token"] / seconds / peak_flops
    return figures


def ratio_by_round(sides: dict[str, dict[str, Any]], one: str, other: str, clock: str = "") -> list[float]:
    """How often a step of `one` goes into a step of `other`, round by round, smallest first; `clock` "cpu_" counts CPU
    time."""
    by_round = [sides[name][f"{clock}seconds_per_step_by_round"] for name in (one, other)]
    return sorted(b / a for a, b in zip(*by_round, strict=True))


def trainer_overhead(sides: dict[str, dict[str, Any]], with_cpu_time: bool) -> dict[str, dict[str, float]]:
    """What the Trainer adds to a step of the bare loop, as a share of it. On a CPU that does other work too, CPU time
    is the steadier of the two."""
    clocks = {"time": ""} | ({"CPU time": "cpu_"} if with_cpu_time else {})
    overhead = {}
    for name, clock in clocks.items():
        ratios = [ratio - 1 for ratio in ratio_by_round(sides, LOOP, OURS, clock)]
        low, high = interval_of_median(ratios)
        overhead[name] = {
            "median": statistics.median(ratios),
            "low_95": low,
            "high_95": high,
            "lowest": ratios[0],
            "highest": ratios[-1],
        }
    return overhead


def interval_of_median(values: list[float]) -> tuple[float, float]:
    """Between which two of the sorted `values` their median lies with a probability of about 95%, whatever their
    distribution: ranks n/2 -+ sqrt(n). The lowest and the highest, where there are too few to say so much."""
    reach = math.sqrt(len(values))
    first = max(0, math.floor(len(values) / 2 - reach))
    return values[first], values[len(values) - 1 - first]


def as_table(report: dict[str, Any]) -> str:
    """A row a side, and below it what the Trainer costs. Columns without any figure are left out."""
    sides = report["sides"]
    rows_decoded = sorted({int(n) for s in sides.values() for n in s["decode_tokens_per_second"]})
    with_mfu = any("mfu" in side for side in sides.values())
    header = ["side", "s/step", "tokens/s", "hfgpt's speed / its"]
    header += ["MFU"] * with_mfu + ["peak memory"] + [f"decode x {n}, tokens/s" for n in rows_decoded]
    rows = []
    for name, side in sides.items():
        row = [
            NAMES[name],
            f"{side['seconds_per_step']:.4g}",
            f"{side['tokens_per_second']:,.0f}",
            f"{statistics.median(ratio_by_round(sides, OURS, name)):.3f}",
        ]
        if with_mfu:
            row.append(f"{side['mfu']:.1%}" if "mfu" in side else "")
        row.append(f"{side['peak_memory_bytes'] / 2**30:.2f} GiB")
        decoded = side["decode_tokens_per_second"]
        row += [f"{decoded[str(n)]:,.0f}" if str(n) in decoded else "" for n in rows_decoded]
        rows.append(row)
    table = markdown_table(header, rows)
    if overhead := report.get("trainer_overhead"):
        said = [
            f"{figures['median']:+.1%} in {clock} (95% interval {figures['low_95']:+.1%} to "
            f"{figures['high_95']:+.1%}; rounds {figures['lowest']:+.1%} to {figures['highest']:+.1%})"
            for clock, figures in overhead.items()
        ]
        table += f"\n\nTrainer's overhead over the bare loop, median of the rounds: {'; '.join(said)}."
    return table


def as_page(report: dict[str, Any]) -> str:
    """The report as Markdown, with command, workload, machine and versions."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    peak = report.get("peak_flops")
    mfu = f"MFU is of {peak:.4g} dense bfloat16 FLOP/s." if peak else "The device's peak is not known, so no MFU."
    about = [
        f"- {NAMES[name]}: {side['model']}, {side['parameters']:,} parameters, optimizer {side['optimizer']}, "
        f"{'compiled' if side['compiled'] else 'not compiled'}, {side['flops_per_token']:,} FLOPs a token; "
        f"{side['first_turn_seconds']} s to its first figures"
        for name, side in report["sides"].items()
    ]
    where = ", ".join(dict.fromkeys([report["device"], report["processor"]]))  # a CPU is both
    return "\n".join(
        [
            f"# {report['recipe']} on {report['device']}",
            "",
            f"`{report['command']}`",
            "",
            f"{report['workload']}",
            f"Random tokens; sides take turns, {report['rounds']} rounds of {report['steps_per_round']} steps, "
            "medians of the rounds. Memory is the device's on a GPU, else resident with all libraries. Decoding is "
            f"greedy, {report['decode_tokens']} tokens for each row. {mfu}",
            "",
            as_table(report),
            "",
            *about,
            "",
            f"Machine: {report['date']}, {where}, {report['cores']} cores, load "
            f"{report['load_average']} at the start, {report['threads']} threads, Python {report['python']}, "
            f"{versions}.",
            "",
        ]
    )


def write_report(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write `<folder>/bench-<recipe>[-vs-<sides>][-<hash of the recipe's changes>]-<device>.json` and `.md`, so that
    a report takes the place of an earlier one of the same measurement only; returns both."""
    rivals, changes = [name for name in report["sides"] if name != OURS], report["recipe_changes"]
    parts = [report["recipe"], *(["vs", *sorted(rivals)] if rivals else [])]
    parts += [hashlib.sha256(shlex.join(changes).encode()).hexdigest()[:6]] if changes else []
    stem = "bench-" + re.sub(r"[^a-z0-9]+", "-", "-".join([*parts, report["device"]]).lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
    paths[0].write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    paths[1].write_text(as_page(report), encoding="utf-8")
    return paths


def command_line(argv: list[str]) -> str:
    return shlex.join(["hfgpt", "bench", *argv])
