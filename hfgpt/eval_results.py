"""What `hfgpt eval` leaves: a table of models side by side, results as JSON, questions and answers as JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfgpt import __version__
from hfgpt.report.tables import markdown_table

if TYPE_CHECKING:
    from hfgpt.evals.harness import Evaluation

LEFT_OUT = "left_out"  # counts tasks, said in a sentence rather than in the table


def results_table(evaluations: Mapping[str, Evaluation]) -> str:
    """One line for each metric of each task, one column for each model, with standard errors where they are known."""
    tasks = list(dict.fromkeys(task for found in evaluations.values() for task in found.scores))
    rows = []
    for task in tasks:
        scores = [found.scores.get(task, {}) for found in evaluations.values()]
        metrics = dict.fromkeys(metric for score in scores for metric in score)
        shown = [metric for metric in metrics if not metric.endswith("stderr") and metric != LEFT_OUT]
        for number, metric in enumerate(shown):
            error = "stderr" if number == 0 else f"{metric}_stderr"
            values = [_shown(score.get(metric), score.get(error)) for score in scores]
            rows.append([task if number == 0 else "", metric, *values])
    return markdown_table(["task", "metric", *evaluations], rows, text_columns=2)


def left_out_sentences(evaluation: Evaluation) -> list[str]:
    """One for each group whose mean is not over all of its tasks."""
    return [
        f"{group} is the mean without {len(names)} tasks whose data is missing: {', '.join(names)}."
        for group, names in evaluation.left_out.items()
    ]


def write_results(path: Path, evaluations: Mapping[str, Evaluation], limit: int | None) -> None:
    """`{"results": {MODEL: {TASK: {"acc": ..., "stderr": ...}}}, "versions": {TASK: ...}, ...}`, whole or not at
    all."""
    everything: dict[str, Any] = {
        "results": {name: found.scores for name, found in evaluations.items()},
        "versions": _of_all(evaluations, "versions"),
        "num_fewshot": _of_all(evaluations, "num_fewshot"),
        LEFT_OUT: _of_all(evaluations, LEFT_OUT),
        "limit": limit,
        "hfgpt": __version__,
        "lm_eval": version("lm_eval"),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(everything, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def write_samples(path: Path, model: str, evaluation: Evaluation) -> None:
    """`F_samples/MODEL/TASK.jsonl` beside the results `F.json`, a question a line as lm-eval logs it."""
    folder = path.with_name(f"{path.stem}_samples") / re.sub(r"[^\w.-]+", "_", model).strip("_")
    for task, samples in (evaluation.samples or {}).items():
        folder.mkdir(parents=True, exist_ok=True)
        lines = (json.dumps(sample, ensure_ascii=False, default=str) + "\n" for sample in _in_order(samples))
        (folder / f"{task}.jsonl").write_text("".join(lines), encoding="utf-8")


def _of_all(evaluations: Mapping[str, Evaluation], field: str) -> dict[str, Any]:
    """A field by task, the same for all models."""
    return {task: value for found in evaluations.values() for task, value in vars(found)[field].items()}


def _in_order(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the task has its questions; several processes give theirs one after the other."""
    return sorted(samples, key=lambda sample: sample["doc_id"])


def _shown(value: float | None, error: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if error is None else f"{value:.4f} ± {error:.4f}"
