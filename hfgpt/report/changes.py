"""What a run learned and forgot between its stages, with noise kept apart from progress."""

import itertools
import math
from dataclasses import dataclass

from hfgpt.report.tables import Table
from hfgpt.report.timeline import Curve, Timeline

SURE = 2.0  # standard errors of a difference; noise alone goes beyond them in 4.6% of cases
RULE = (
    "What each stage changed, ± the standard error of the change. A change is called learned or forgotten where it is "
    f"more than {SURE:g} of them; without a word it is within noise. The error is that of two independent scores "
    "(unpaired), though the same questions are asked both times: it errs on the side of noise. A score of exactly "
    "0 or 1 has no error of its own and is given that of the other. Of twenty scores that "
    "did not change about one would be called so all the same."
)


@dataclass(frozen=True)
class Change:
    """What a stage did to a score; `error`, the standard error of the difference, is None where one was not known."""

    ability: str
    stage: str
    values: tuple[float, float]
    error: float | None

    @property
    def difference(self) -> float:
        return self.values[1] - self.values[0]

    @property
    def verdict(self) -> str:
        """`learned`, `forgotten`, or nothing where it is within noise or the noise is not known."""
        if self.error is None or abs(self.difference) <= SURE * self.error:
            return ""
        return "learned" if self.difference > 0 else "forgotten"

    def __str__(self) -> str:
        """In points of a hundred: `+12.5 ± 2.1 learned`."""
        noise = "" if self.error is None else f" ± {100 * self.error:.1f}"
        return f"{100 * self.difference:+.1f}{noise} {self.verdict}".rstrip()


def error_of_difference(errors: tuple[float | None, float | None]) -> float | None:
    """The standard error of the difference of two independent scores.

    A score of exactly 0 or 1 has a sample error of 0, which is no certainty: it is given the other's. None where one
    is not known.
    """
    before, after = errors
    if before is None or after is None:
        return None
    return math.hypot(before or after, after or before)


def changes_between_stages(timeline: Timeline) -> list[Change]:
    """Every ability from the start of the first stage to its end, and from each stage's end to the next one's.

    Where a stage was scored before its first step, that is what it is measured against; else the end of the stage
    before.
    """
    found = []
    for name, curves in timeline.abilities().items():
        for stage, (before, after) in _moments(timeline, curves):
            values, errors = (before.values[-1], after.values[-1]), (before.errors[-1], after.errors[-1])
            found.append(Change(name, stage, values, error_of_difference(errors)))
    return found


def _moments(timeline: Timeline, curves: list[Curve]) -> list[tuple[str, tuple[Curve, Curve]]]:
    """(stage, the point before it and the point at its end) of each stage over which a score is known."""
    moments = []
    starts = {stage.name: stage.start for stage in timeline.stages}
    for earlier, curve in itertools.pairwise([None, *curves]):
        assert curve is not None
        end = _point(curve, -1)
        if len(curve.tokens) > 1 and curve.tokens[0] == starts[curve.stage]:
            moments.append((curve.stage, (_point(curve, 0), end)))
        elif earlier is not None:
            moments.append((curve.stage, (_point(earlier, -1), end)))
    return moments


def _point(curve: Curve, index: int) -> Curve:
    return Curve(curve.stage, [curve.tokens[index]], [curve.values[index]], [curve.errors[index]])


def changes_table(timeline: Timeline) -> Table | None:
    """One row an ability, one column a stage; None without scores."""
    changes = {(change.ability, change.stage): change for change in changes_between_stages(timeline)}
    stages = [stage.name for stage in timeline.stages if any(stage.name == name for _, name in changes)]
    abilities = dict.fromkeys(ability for ability, _ in changes)
    rows = [[ability, *(str(changes.get((ability, stage), "-")) for stage in stages)] for ability in abilities]
    return Table("Learned and forgotten", ["points of 100", *stages], rows) if rows else None
