"""What each stage of a run could do at its end, side by side: one row an ability, one column a stage."""

import itertools
from dataclasses import dataclass
from pathlib import Path

from hfgpt.evals.scores import Scores, read_scores
from hfgpt.recipe import STAGES
from hfgpt.report.summary import samples_before_and_after
from hfgpt.report.tables import markdown_table

ABILITIES_FILE = "abilities.md"
# What the tiny world's scores mean, in the order of a model's life; other tasks are named as they are.
MEANINGS = {
    ("tinyworld_facts", "acc"): "knows a fact (sentence cut off, 1 of 10)",
    ("tinyworld_sums", "acc"): "knows a sum (1 of 10)",
    ("tinyworld_chat", "form"): "answers in the form of a chat, and ends",
    ("tinyworld_answers", "exact_match"): "answers a question about a fact, new wording",
    ("tinyworld_answers_new_people", "exact_match"): "answers about people met in documents alone",
    ("tinyworld_chat_sums", "exact_match"): "answers a sum",
    ("tinyworld_answers", "preferred"): "gives the preferred kind of answer",
    ("pass_at_k", "pass@1"): "pass@1 on sums, sampled",
    ("pass_at_k", "pass@8"): "pass@8 on sums, sampled",
}


@dataclass(frozen=True)
class Ability:
    """One score over the stages; `values` and `errors` (standard errors) hold None where it was not measured."""

    name: str
    values: list[float | None]
    errors: list[float | None]


def abilities_of(run_folder: Path) -> tuple[list[str], list[Ability]]:
    """The stages of the run in `run_folder` that were scored, and every score at the end of each, also where only the
    stage after measured it, before its first step."""
    last = last_scores(run_folder)
    return list(last), abilities_among(list(last.values()))


def last_scores(run_folder: Path) -> dict[str, Scores]:
    """The scores at the end of each stage of the run that was scored."""
    measured_by = {stage: scores for stage in STAGES if (scores := read_scores(run_folder / stage))}
    last = {stage: dict(scores[max(scores)]) for stage, scores in measured_by.items()}
    for before, stage in itertools.pairwise(measured_by):  # what a stage measures first is the model before it
        last[before] = measured_by[stage].get(0, {}) | last[before]
    return last


def abilities_among(columns: list[Scores]) -> list[Ability]:
    """Every score that stands in any of the columns, each with its value in all of them."""
    names = {(task, metric) for scores in columns for task in scores for metric in scores[task]}
    shown = sorted((name for name in names if not name[1].endswith("stderr")), key=_rank)
    if any(name in MEANINGS for name in shown):
        shown = [name for name in shown if name in MEANINGS or not name[0].startswith("tinyworld")]
    abilities = []
    for task, metric in shown:
        measured = [scores.get(task, {}) for scores in columns]
        errors = [scores.get(f"{metric}_stderr", scores.get("stderr")) for scores in measured]
        name = MEANINGS.get((task, metric), f"{task} {metric}")
        abilities.append(Ability(name, [scores.get(metric) for scores in measured], errors))
    return abilities


def abilities_table(run_folder: Path) -> str:
    """The abilities after each stage in Markdown; each row's best stage is marked by an asterisk."""
    stages, abilities = abilities_of(run_folder)
    return markdown_table(["ability", *stages], ability_rows(abilities))


def ability_rows(abilities: list[Ability]) -> list[list[str]]:
    """Cells of a table: the name, then each value with its standard error; the best of a row has an asterisk."""
    rows = []
    for ability in abilities:
        best = max((value for value in ability.values if value is not None), default=None)
        cells = (
            _cell(value, error, value == best) for value, error in zip(ability.values, ability.errors, strict=True)
        )
        rows.append([ability.name, *cells])
    return rows


def write_abilities(run_folder: Path) -> Path:
    """Write the table to `report/abilities.md` of the run."""
    path = run_folder / "report" / ABILITIES_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    title = (
        f"# What {run_folder.name} can do after each stage\n\nScore ± its standard error; * marks the best stage.\n"
    )
    parts = [f"{title}\n{abilities_table(run_folder)}\n"]
    for stage in STAGES:
        if rows := samples_before_and_after(run_folder / stage):
            parts.append(f"## What it said before and after {stage}\n\n{_samples_table(rows)}\n")
    path.write_text("\n".join(parts), encoding="utf-8")
    return path


def _samples_table(rows: list[tuple[str, str | None, str]]) -> str:
    lines = ["| prompt | before | after |", "|---|---|---|"]
    for row in rows:
        cells = [" ".join((text or "-").split()).replace("|", "\\|") for text in row]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(value: float | None, error: float | None, is_best: bool) -> str:
    if value is None:
        return "-"
    noise = f" ± {error:.1%}" if error is not None else ""
    return f"{value:.1%}{noise}{'*' if is_best else ' '}"


def _rank(name: tuple[str, str]) -> tuple[int, tuple[str, str]]:
    order = list(MEANINGS)
    return (order.index(name) if name in MEANINGS else len(order), name)
