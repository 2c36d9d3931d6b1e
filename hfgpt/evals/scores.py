"""evals.jsonl: what a stage's model could do at some of its steps, as `ScoresCallback` wrote it. Imports no torch."""

from pathlib import Path

from hfgpt.training.record import read_records

EVALS_FILE = "evals.jsonl"

Scores = dict[str, dict[str, float]]  # by task and metric


def read_scores(folder: Path) -> dict[int, Scores]:
    """What was measured at each step of the run in `folder`, first step first."""
    by_step: dict[int, Scores] = {}
    for entry in read_records(folder / EVALS_FILE):
        by_step.setdefault(entry["step"], {}).update(entry["results"])
    return by_step
