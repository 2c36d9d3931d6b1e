"""A run as one line of time: its stages one after the other, every loss, score and sample at the tokens it had seen in
all stages together. Reads the files that stages leave, of complete stages and of such as still run or were killed."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgpt.errors import UserError
from hfgpt.evals.scores import Scores, read_scores
from hfgpt.recipe import STAGES, read_recipe_file
from hfgpt.report.abilities import abilities_among
from hfgpt.training.environment import ENVIRONMENT_FILE
from hfgpt.training.record import METRICS_FILE, read_records
from hfgpt.whole_files import read_object
from hfgpt.workspace import FINAL_METRICS, IDENTITY_FILE, PLAN_FILE, RECIPE_FILE

SAMPLES_FILE = "samples.jsonl"
LEAST_SHARE = 0.12  # of a picture's width, that a stage has however few its tokens are


@dataclass(frozen=True)
class StageHistory:
    """One stage: `start` tokens were seen in the stages before it, `final` is None while it is not
    complete, `plan` and `environment` are empty where a stage of an earlier version left none."""

    name: str
    folder: Path
    start: int
    records: list[dict[str, Any]]
    scores: dict[int, Scores]
    samples: list[dict[str, Any]]
    recipe: dict[str, Any]
    identity: dict[str, Any]
    final: dict[str, Any] | None
    plan: dict[str, Any]
    environment: dict[str, str]

    @property
    def tokens(self) -> int:
        """Tokens that the stage itself has seen until now."""
        return max((record.get("tokens", 0) for record in self.records), default=0)

    @property
    def end(self) -> int:
        return self.start + self.tokens

    @property
    def steps(self) -> int:
        return max((record["step"] for record in self.records), default=0)

    def tokens_at(self, step: int) -> int:
        """Tokens of all stages together at a step of this one; between two records, in proportion."""
        before = (0, 0)
        for record in self.records:
            here = (record["step"], record.get("tokens", 0))
            if here[0] >= step:
                share = (step - before[0]) / (here[0] - before[0]) if here[0] > before[0] else 0.0
                return self.start + round(before[1] + share * (here[1] - before[1]))
            before = here
        return self.end

    def last(self, name: str) -> Any:
        """The last value of a column of the metrics, None where it was never written."""
        return next((record[name] for record in reversed(self.records) if name in record), None)


@dataclass(frozen=True)
class Curve:
    """Points of one stage: tokens of all stages together, values, and standard errors where they are known."""

    stage: str
    tokens: list[int]
    values: list[float]
    errors: list[float | None]


@dataclass(frozen=True)
class Timeline:
    """The stages of a run that have begun, in order."""

    name: str
    folder: Path
    stages: list[StageHistory]

    def metric(self, column: str, only: tuple[str, ...] = STAGES) -> list[Curve]:
        """A column of metrics.jsonl, a curve a stage that wrote it."""
        curves = []
        for stage in self.stages:
            points = [(stage.start + r["tokens"], r[column]) for r in stage.records if r.get(column) is not None]
            if points and stage.name in only:
                tokens, values = zip(*points, strict=True)
                curves.append(Curve(stage.name, list(tokens), list(values), [None] * len(points)))
        return curves

    def abilities(self) -> dict[str, list[Curve]]:
        """Every score over the run, by the name that the table of abilities gives it."""
        places = [(stage, step) for stage in self.stages for step in stage.scores]
        curves: dict[str, list[Curve]] = {}
        for ability in abilities_among([stage.scores[step] for stage, step in places]):
            by_stage: dict[str, Curve] = {}
            for (stage, step), value, error in zip(places, ability.values, ability.errors, strict=True):
                if value is not None:
                    curve = by_stage.setdefault(stage.name, Curve(stage.name, [], [], []))
                    curve.tokens.append(stage.tokens_at(step))
                    curve.values.append(value)
                    curve.errors.append(error)
            curves[ability.name] = list(by_stage.values())
        return curves

    def positions(self) -> Callable[[float], float]:
        """A map of tokens to 0 ... 1 that rises evenly within a stage and leaves each at least `LEAST_SHARE`: a chat
        stage has a hundredth of pretraining's tokens and would be a line in a picture."""
        total = sum(stage.tokens for stage in self.stages) or 1
        widths = [max(stage.tokens / total, LEAST_SHARE) for stage in self.stages]
        lefts = [sum(widths[:i]) / sum(widths) for i in range(len(widths) + 1)]

        def position(tokens: float) -> float:
            for i, stage in enumerate(self.stages):
                if tokens <= stage.end or i == len(self.stages) - 1:
                    share = (tokens - stage.start) / stage.tokens if stage.tokens else 0.0
                    return lefts[i] + share * (lefts[i + 1] - lefts[i])
            return 0.0

        return position


def open_timeline(run_folder: Path) -> Timeline:
    """The timeline of the run in `run_folder` (`runs/tiny`). Raises UserError where no stage has left any metrics."""
    stages: list[StageHistory] = []
    for name in STAGES:
        folder = run_folder / name
        if not read_records(folder / METRICS_FILE):
            continue
        stages.append(_open_stage(name, folder, stages[-1].end if stages else 0))
    if not stages:
        raise UserError(f"{run_folder} holds no run: no stage in it has a {METRICS_FILE}; give a folder as runs/tiny.")
    return Timeline(run_folder.resolve().name, run_folder, stages)


def _open_stage(name: str, folder: Path, start: int) -> StageHistory:
    identity, final, plan, environment = (
        read_object(path) if (path := folder / file).is_file() else None
        for file in (IDENTITY_FILE, FINAL_METRICS, PLAN_FILE, ENVIRONMENT_FILE)
    )
    recipe = read_recipe_file(folder / RECIPE_FILE)[0] if (folder / RECIPE_FILE).is_file() else {}
    records = _one_a_step(read_records(folder / METRICS_FILE))
    scores = dict(sorted(read_scores(folder).items()))
    samples = list({(s["step"], s["prompt"]): s for s in read_records(folder / SAMPLES_FILE)}.values())
    return StageHistory(
        name, folder, start, records, scores, samples, recipe, identity or {}, final, plan or {}, environment or {}
    )


def _one_a_step(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records in the order of their steps, those of one step together: a run that was killed and went on by hand may
    have written a step twice, and then what it wrote last holds."""
    by_step: dict[int, dict[str, Any]] = {}
    for record in records:
        by_step.setdefault(record["step"], {}).update(record)
    return [by_step[step] for step in sorted(by_step)]
