"""Tables of a report card: what was asked for and what happened, the data, its overlap with the evaluations, and the
machine. A figure that is not known is a dash, never a guess."""

import json
from pathlib import Path
from typing import Any

from hfgpt.report.document import Words
from hfgpt.report.tables import Table, short_number, short_time
from hfgpt.report.timeline import StageHistory, Timeline
from hfgpt.training.environment import environment

LENGTHS = ("max_steps", "target_flops", "target_param_data_ratio", "num_train_epochs")  # the first that is set holds
LENGTH_ROWS = (
    *("asked for", "planned steps", "planned tokens", "planned FLOPs", "steps", "epochs", "tokens", "FLOPs", "time"),
    *("tokens/s", "MFU", "dollars"),
)
LEAKAGE_FILE = "leakage.json"
UNKNOWN = "-"


def length_table(timeline: Timeline, price: float | None, num_gpus: int) -> Table:
    """A column a stage, and their sum: the length asked for and planned, then what came of it: steps, tokens, FLOPs,
    time, speed and dollars."""
    columns, sums = [list(LENGTH_ROWS)], {"tokens": 0, "flops": 0.0, "seconds": 0.0}
    for stage in timeline.stages:
        seconds, flops = stage.last("seconds") or 0.0, stage.last("flops") or 0.0
        sums = {
            "tokens": sums["tokens"] + stage.tokens,
            "flops": sums["flops"] + flops,
            "seconds": sums["seconds"] + seconds,
        }
        epochs, mfu = stage.last("epoch"), _mean_mfu(stage)
        columns.append(
            [
                length_asked_for(stage),
                *_planned(stage),
                f"{stage.steps:,}" + ("" if stage.final else " so far"),
                UNKNOWN if epochs is None else f"{epochs:.2f}",
                *_amounts(stage.tokens, flops, seconds),
                f"{stage.tokens / seconds:,.0f}" if seconds else UNKNOWN,
                UNKNOWN if mfu is None else f"{mfu:.1%}",
                _dollars(seconds, price, num_gpus),
            ]
        )
    total = _amounts(sums["tokens"], sums["flops"], sums["seconds"])
    columns.append(["", "", "", "", "", "", *total, "", "", _dollars(sums["seconds"], price, num_gpus)])
    rows = [list(row) for row in zip(*columns, strict=True)]
    return Table("", ["", *(stage.name for stage in timeline.stages), "together"], rows)


def _amounts(tokens: float, flops: float, seconds: float) -> list[str]:
    return [short_number(tokens), f"{flops:.3g}" if flops else UNKNOWN, short_time(seconds)]


def _dollars(seconds: float, price: float | None, num_gpus: int) -> str:
    return UNKNOWN if price is None else f"${seconds / 3600 * price * num_gpus:,.2f}"


def _mean_mfu(stage: StageHistory) -> float | None:
    """Over the records that have one, the first step, which compiles, left out."""
    values = [record["mfu"] for record in stage.records if "mfu" in record and record["step"] > 1]
    return sum(values) / len(values) if values else None


def length_asked_for(stage: StageHistory) -> str:
    """The key that decided the stage's length, with its value where the recipe has one."""
    section = stage.recipe.get(stage.name) or {}
    key = _deciding_key(section)
    if key:
        return f"{key} {section[key]:g}"
    return f"{stage.plan['by']} (default)" if stage.plan else UNKNOWN


def _planned(stage: StageHistory) -> list[str]:
    """Steps, tokens and FLOPs that the stage set out for; of a stage that left no plan, what its recipe tells."""
    if stage.plan:
        tokens, flops = stage.plan["tokens"], stage.plan["flops"]
        return [
            f"{stage.plan['steps']:,}",
            UNKNOWN if tokens is None else short_number(tokens),
            UNKNOWN if flops is None else f"{flops:.3g}",
        ]
    section = stage.recipe.get(stage.name) or {}
    if _deciding_key(section) != "max_steps":
        return [UNKNOWN, UNKNOWN, UNKNOWN]
    per_step = stage.identity.get("tokens_per_step")
    steps = int(section["max_steps"])
    return [f"{steps:,}", short_number(steps * per_step) if per_step else UNKNOWN, UNKNOWN]


def _deciding_key(section: dict[str, Any]) -> str | None:
    return next((key for key in LENGTHS if (section.get(key) or 0) > 0), None)


def data_table(timeline: Timeline) -> Table | None:
    """A row a set of prepared rows that a stage trained on; None where none is left on this machine."""
    rows = []
    for stage in timeline.stages:
        keys = stage.identity.get("rows") or []
        keys = keys if isinstance(keys, list) else [keys]
        weights = stage.identity.get("weights") or [1.0] * len(keys)
        for key, weight in zip(keys, weights, strict=False):
            counted = _counts(timeline.folder / "data" / str(key))
            if counted:
                rows.append([stage.name, f"{weight / sum(weights):.0%}", *counted])
    header = ["stage", "share", "documents", "tokens", "rows", "dropped tokens", "held-out tokens", "supervised"]
    return Table("", header, rows) if rows else None


def _counts(folder: Path) -> list[str] | None:
    """Documents, tokens, rows, dropped tokens, held-out tokens and the share of supervised tokens."""
    prepared, chat = folder / "prepared.json", folder / "sft.json"
    if prepared.is_file():
        statistics = json.loads(prepared.read_text(encoding="utf-8"))["statistics"]
        train, held_out = statistics.get("train"), statistics.get("validation") or {}
        if train is None:
            return None
        dropped = train["dropped_tokens"] / max(1, train["tokens"] + train["dropped_tokens"])
        return [
            f"{train['documents']:,}",
            short_number(train["tokens"]),
            f"{train['rows']:,}",
            f"{short_number(train['dropped_tokens'])} ({dropped:.2%})",
            short_number(held_out.get("tokens", 0)),
            "100%",
        ]
    if chat.is_file():
        counts = json.loads(chat.read_text(encoding="utf-8"))["counts"]
        supervised = counts["supervised_tokens"] / max(1, counts["tokens"])
        conversations, left_out = counts["conversations"], counts["conversations"] - counts["rows"]
        dropped_words = f"{left_out:,} conversations" if left_out else "0"
        return [f"{conversations:,}", short_number(counts["tokens"]), f"{counts['rows']:,}", dropped_words, UNKNOWN,
                f"{supervised:.0%}"]  # fmt: skip
    return None


def leakage_table(timeline: Timeline) -> tuple[Table, str] | None:
    """Each task's questions that stand in the training data, beside its last score, and the rule by which they were
    found; None where that was not measured."""
    path = timeline.folder / "report" / LEAKAGE_FILE
    if not path.is_file():
        return None
    measured = json.loads(path.read_text(encoding="utf-8"))
    scores: dict[str, str] = {}
    for stage in timeline.stages:
        for results in stage.scores.values():
            scores |= {task: _first_score(metrics) for task, metrics in results.items()}
    rows = [
        [
            task,
            f"{found['questions']:,}",
            f"{found['overlapping']:,}",
            f"{found['overlapping'] / found['questions']:.1%}" if found["questions"] else UNKNOWN,
            scores.get(task, UNKNOWN),
        ]
        for task, found in measured["tasks"].items()
    ]
    rule = measured.get("rule", f"{measured['n']} words in a row")
    return Table("", ["task", "questions", "overlapping", "share", "last score"], rows), rule


def _first_score(metrics: dict[str, float]) -> str:
    return next((f"{name} {value:.1%}" for name, value in metrics.items() if not name.endswith("stderr")), UNKNOWN)


def environment_table(timeline: Timeline) -> Words:
    """Python, packages, processor and accelerator, as each stage left them; where one left none, as they are now."""
    columns = {stage.name: stage.environment for stage in timeline.stages if stage.environment}
    if len(columns) < len(timeline.stages):
        columns["this report"] = environment()
    same = len({tuple(sorted(column.items())) for column in columns.values()}) == 1
    if same:
        columns = {"which" if "this report" not in columns else "this report": next(iter(columns.values()))}
    names = dict.fromkeys(name for column in columns.values() for name in column)
    rows = [[name, *(column.get(name, UNKNOWN) for column in columns.values())] for name in names]
    return Words(["what", *columns], rows)
