"""Runs side by side: where their recipes differ, where they stand, how soon each reaches what the first one reached,
and what they can do."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgpt.errors import UserError
from hfgpt.evals.scores import Scores, read_scores
from hfgpt.recipe import SHARED_SECTIONS, STAGES, read_recipe_file
from hfgpt.report.abilities import abilities_among, ability_rows, last_scores
from hfgpt.report.sweep_results import LOSS_NAMES
from hfgpt.report.tables import Table, short_number, short_time
from hfgpt.run_identity import SETTINGS
from hfgpt.training.record import METRICS_FILE, read_records
from hfgpt.whole_files import read_object
from hfgpt.workspace import FINAL_METRICS, IDENTITY_FILE, RECIPE_FILE

NOT_COMPARED = {"output_dir", "run_name"}
LONGEST_VALUE = 48  # characters of a value in a table
LAST_STEP = "the last step"  # under which the scores of single stages stand beside each other


@dataclass(frozen=True)
class ComparedRun:
    """One stage of a run. `recipe` holds its keys by `section.key`, `derived` what followed from them (rates, shape,
    batch), `scores` the last scores by stage."""

    name: str
    folder: Path
    recipe: dict[str, Any]
    derived: dict[str, Any]
    records: list[dict[str, Any]]
    final: dict[str, Any] | None  # None while the stage is not complete
    scores: dict[str, Scores]

    def curve(self, x: str, y: str) -> tuple[list[float], list[float]]:
        """Two columns of its metrics, where both were written."""
        records = [record for record in self.records if x in record and y in record]
        return [record[x] for record in records], [record[y] for record in records]

    def last(self, name: str) -> float | None:
        return next((record[name] for record in reversed(self.records) if name in record), None)


def open_runs(paths: list[Path], stage: str | None = None) -> list[ComparedRun]:
    """The runs in `paths`, each a run's folder (`runs/tiny`) or the folder of one stage.

    Of a run's folder `stage` is taken, by default the first stage that all of them have. Raises UserError for a folder
    without metrics, and where there is no such stage.
    """
    if len(paths) < 2:
        raise UserError("a comparison needs two runs or more: hfgpt compare runs/one runs/other.")
    having = {path: _stages_in(path) for path in paths}
    for path, stages in having.items():
        if not stages:
            raise UserError(f"{path} holds no run: it has no {METRICS_FILE}, nor has any stage in it.")
        if stage and "" not in stages and stage not in stages:
            raise UserError(f"{path} has no stage {stage}; it has {', '.join(stages)}.")
    in_all = [s for s in STAGES if all(s in stages or "" in stages for stages in having.values())]
    if not in_all:
        each = "; ".join(f"{path} has {', '.join(stages)}" for path, stages in having.items())
        raise UserError(f"the runs share no stage to compare: {each}.")
    chosen = stage or in_all[0]
    single = chosen if any("" not in stages for stages in having.values()) else LAST_STEP
    return [
        _open_run(name, path, having[path], chosen) if "" not in having[path] else _open_stage(name, path, single)
        for name, path in zip(_short_names(paths), paths, strict=True)
    ]


def compared_loss(runs: list[ComparedRun]) -> str:
    """The best loss that all runs have written: bits per byte, else held-out loss, else training loss."""
    for name in LOSS_NAMES:
        if all(any(name in record for record in run.records) for run in runs):
            return name
    raise UserError("no loss was written by all of these runs yet.")


def comparison_report(runs: list[ComparedRun], picture: str | None = None) -> str:
    """The comparison in Markdown, which also reads as plain text."""
    standing, *others = comparison_tables(runs)
    parts = [f"# {', '.join(run.name for run in runs)}", standing.as_markdown()]
    parts.append("\n".join(f"- {line}" for line in how_soon(runs)))
    if picture:
        parts.append(f"![loss and abilities]({picture})")
    for table in others:
        parts += [f"## {table.title}", table.as_markdown()]
    return "\n\n".join(parts) + "\n"


def comparison_tables(runs: list[ComparedRun]) -> list[Table]:
    """Where the runs stand, then what differs in recipes and in derived values, then abilities stage by stage."""
    names = [run.name for run in runs]
    tables = [standing_table(runs)]
    sections = [*SHARED_SECTIONS, *STAGES]
    rows = differences(_comparable([run.recipe for run in runs]))
    rows.sort(key=lambda row: sections.index(row[0].partition(".")[0]))
    if rows:
        tables.append(Table("Where the recipes differ", ["key", *names], rows))
    stated = {row[0].rpartition(".")[2] for row in rows}
    if derived := [row for row in differences([run.derived for run in runs]) if row[0] not in stated]:
        tables.append(Table("Derived values that differ", ["key", *names], derived))
    for stage in scored_stages(runs):
        abilities = abilities_among([run.scores.get(stage, {}) for run in runs])
        tables.append(Table(f"Abilities after {stage}", ["ability", *names], ability_rows(abilities)))
    return tables


def standing_table(runs: list[ComparedRun]) -> Table:
    """One line a run: size, what it has seen, what it took, and its loss, the lowest marked by an asterisk."""
    loss = compared_loss(runs)
    lasts = [run.last(loss) for run in runs]
    lowest = min(value for value in lasts if value is not None)
    rows = []
    for run, value in zip(runs, lasts, strict=True):
        last = run.records[-1]
        rows.append(
            [
                run.name,
                short_number(run.final["parameters"]) if run.final else "-",
                short_number(last["tokens"]),
                f"{last['flops']:.2e}",
                short_time(last["seconds"]),
                f"{last['tokens'] / last['seconds']:,.0f}" if last["seconds"] else "-",
                f"{value:.4f}{'*' if value == lowest else ' '}",
                "complete" if run.final else f"at step {last['step']:,}",
            ]
        )
    header = ["run", "parameters", "tokens", "FLOPs", "time", "tokens/s", LOSS_NAMES[loss], "state"]
    return Table("Where the runs stand", header, rows)


def how_soon(runs: list[ComparedRun]) -> list[str]:
    """For each run but the first: at which share of the first run's tokens, FLOPs and seconds it reached the first
    run's last loss, between two evaluations by a straight line. One sentence where their losses cannot be compared."""
    first, *others = runs
    loss = compared_loss(runs)
    if loss != "val_bits_per_byte" and len({str(run.derived.get("vocab_size")) for run in runs}) > 1:
        return ["Their vocabularies differ, so their losses in nats per token cannot be compared."]
    target = first.last(loss)
    assert target is not None
    lines = []
    for run in others:
        shares = []
        for column, words in (("tokens", "tokens"), ("flops", "FLOPs"), ("seconds", "time")):
            x, losses = run.curve(column, loss)
            spent = first.curve(column, loss)[0][-1:]  # when it wrote that loss; it may have gone on since
            reached = _crossing(x, losses, target)
            if reached is not None and any(spent):
                shares.append(f"{reached / spent[0]:.2f} of its {words}")
        what = f"{first.name}'s last {LOSS_NAMES[loss]} ({target:.4f})"
        lines.append(
            f"{run.name} reached {what} at {', '.join(shares)}." if shares else f"{run.name} never reached {what}."
        )
    return lines


def differences(columns: list[dict[str, Any]]) -> list[list[str]]:
    """`[key, value in the first, value in the second, ...]` for every key whose values are not the same; `-` where a
    key was not given."""
    rows = []
    for key in dict.fromkeys(key for column in columns for key in column):
        texts = [_text(column[key]) if key in column else "-" for column in columns]
        if len(set(texts)) > 1:
            rows.append([key, *_shortened(texts)])
    return rows


def scored_stages(runs: list[ComparedRun]) -> list[str]:
    """Stages after which two of the runs or more were scored, in the order of a model's life."""
    names = Counter(stage for run in runs for stage in run.scores)
    shared = [stage for stage, count in names.items() if count > 1]
    return sorted(shared, key=lambda stage: STAGES.index(stage) if stage in STAGES else len(STAGES))


def _stages_in(path: Path) -> list[str]:
    """The stages of a run's folder that have metrics; `[""]` for the folder of a stage."""
    if (path / METRICS_FILE).is_file():
        return [""]
    return [stage for stage in STAGES if (path / stage / METRICS_FILE).is_file()]


def _open_run(name: str, path: Path, stages: list[str], stage: str) -> ComparedRun:
    """`stage` of the run in `path`, with the recipe and the scores of all its stages."""
    recipe = _keys_of(path / stage, list(SHARED_SECTIONS))
    for one in stages:
        recipe |= _keys_of(path / one, [one])
    return _open(name, path / stage, recipe, last_scores(path))


def _open_stage(name: str, folder: Path, scored_as: str) -> ComparedRun:
    """The one stage in `folder`. Its sections are those of its name, or all where its name is no stage's."""
    stage = folder.resolve().name
    recipe = _keys_of(folder, [*SHARED_SECTIONS, *([stage] if stage in STAGES else STAGES)])
    measured = read_scores(folder)
    return _open(name, folder, recipe, {scored_as: measured[max(measured)]} if measured else {})


def _open(name: str, folder: Path, recipe: dict[str, Any], scores: dict[str, Scores]) -> ComparedRun:
    records = [record for record in read_records(folder / METRICS_FILE) if "tokens" in record]
    if not records:
        raise UserError(f"{folder / METRICS_FILE} has no record yet.")
    identity, final = (
        read_object(path) if path.is_file() else None for path in (folder / IDENTITY_FILE, folder / FINAL_METRICS)
    )
    derived = {key: value for key, value in (identity or {}).items() if key != SETTINGS}  # the recipe has them
    return ComparedRun(name, folder, recipe, derived.pop("architecture", {}) | derived, records, final, scores)


def _keys_of(folder: Path, sections: list[str]) -> dict[str, Any]:
    """`section.key` of the recipe as the stage in `folder` ran it."""
    found = read_recipe_file(folder / RECIPE_FILE)[0]
    keys = ((f"{name}.{key}", value) for name in sections for key, value in found.get(name, {}).items())
    return {key: value for key, value in keys if key.partition(".")[2] not in NOT_COMPARED}


def _comparable(recipes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The recipes without the stages that not all of them ran."""
    sections = [{key.partition(".")[0] for key in recipe} for recipe in recipes]
    not_shared = {stage for stage in STAGES if not all(stage in names for names in sections)}
    return [
        {key: value for key, value in recipe.items() if key.partition(".")[0] not in not_shared} for recipe in recipes
    ]


def _short_names(paths: list[Path]) -> list[str]:
    """What tells the paths apart: their parts without those that all share at the beginning and at the end."""
    parts = [path.resolve().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise UserError("the same run is named twice.")
    while len({p[:1] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    while len({p[-1:] for p in parts}) == 1 and min(len(p) for p in parts) > 1:
        parts = [p[:-1] for p in parts]
    return ["/".join(p) or path.resolve().name for p, path in zip(parts, paths, strict=True)]


def _crossing(x: list[float], losses: list[float], target: float) -> float | None:
    """Where the loss first comes down to `target`; None where it never does."""
    for i, loss in enumerate(losses):
        if loss <= target:
            if i == 0 or losses[i - 1] == loss:
                return x[i]
            return x[i - 1] + (x[i] - x[i - 1]) * (losses[i - 1] - target) / (losses[i - 1] - loss)
    return None


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _shortened(texts: list[str]) -> list[str]:
    """Texts that fit into a table, each from a little before the place where they begin to differ."""
    if max(len(text) for text in texts) <= LONGEST_VALUE:
        return texts
    start = max(0, len(os.path.commonprefix([text for text in texts if text != "-"])) - 8)
    cut = [f"… {text[start:]}" if start and text != "-" else text for text in texts]
    return [text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 2]} …" for text in cut]
