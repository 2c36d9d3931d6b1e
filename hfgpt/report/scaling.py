"""What a sweep says about scaling: the best size at each budget of FLOPs, and how loss falls as compute grows."""

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hfgpt.recipe import LENGTH_KEYS
from hfgpt.report.scaling_fit import (
    NoFit,
    Parabola,
    PowerLaw,
    fit_parabola,
    fit_power_law,
    fit_saturating_power_law,
    frontier,
)
from hfgpt.report.sweep_results import LOSS_NAMES, SweepRun, shared_loss
from hfgpt.report.tables import short_number

# Keys along which a series runs; runs that differ in any other key belong to different series.
SIZE_KEYS = ("depth", "preset", "hidden_size", "num_hidden_layers", "intermediate_size")
SEED_KEY = "seed"


@dataclass(frozen=True)
class Point:
    """The means of runs that differ in their seed alone; `size` counts block matrices and head."""

    settings: dict[str, Any]
    size: float
    tokens: float
    flops: float
    loss: float


@dataclass(frozen=True)
class Budget:
    """Points of one `target_flops`. `tokens_at_best` are those that its FLOPs buy at the best size; both are None
    where `why_not` says why."""

    target_flops: float
    flops: float
    points: list[Point]
    parabola: Parabola | None
    tokens_at_best: float | None
    why_not: str

    @property
    def lowest(self) -> float:
        return self.parabola.lowest if self.parabola else min(point.loss for point in self.points)


@dataclass(frozen=True)
class Series:
    """Runs that differ in size, length and seed alone. `budgets` are empty unless several sizes share a budget.

    `scaling_points`, (FLOPs, loss), are what `loss_law` goes through: the lowest loss of each budget (of its
    parabola, else of its runs), or the runs themselves. A law is None where the points cannot bear it, and `why_not`
    gives the reason by what was sought.
    """

    label: str
    points: list[Point]
    budgets: list[Budget]
    scaling_points: list[tuple[float, float]]
    loss_law: PowerLaw | None
    size_law: PowerLaw | None
    tokens_law: PowerLaw | None
    why_not: dict[str, str]


def analyse(runs: list[SweepRun]) -> list[Series]:
    """The series among `runs`, each with what can be fitted to it."""
    loss = shared_loss(runs)
    along = {*SIZE_KEYS, *LENGTH_KEYS, SEED_KEY}
    groups: dict[str, list[SweepRun]] = defaultdict(list)
    for run in runs:
        groups[_words({key: value for key, value in run.settings.items() if key not in along})].append(run)
    return [_series(label, _points(group, loss)) for label, group in groups.items()]


def scaling_lines(series: list[Series], loss_name: str) -> list[str]:
    """Sentences that say what was fitted, and what could not be, and why."""
    lines = []
    for one in series:
        who = f"{one.label}: " if one.label else ""
        for budget in one.budgets:
            at = f"{who}at {budget.flops:.2e} FLOPs"
            if budget.parabola is None or budget.tokens_at_best is None:
                lines.append(f"{at} no best size: {budget.why_not}.")
                continue
            size, tokens = budget.parabola.best_size, budget.tokens_at_best
            lines.append(
                f"{at} the best size is {short_number(size)} (block matrices and head), trained on "
                f"{short_number(tokens)} tokens, {tokens / size:.1f} each: {LOSS_NAMES[loss_name]} "
                f"{budget.parabola.lowest:.4f}."
            )
        laws = ((LOSS_NAMES[loss_name], one.loss_law), ("best size", one.size_law), ("its tokens", one.tokens_law))
        lines += [f"{who}{what} = {law_text(law)}." for what, law in laws if law]
        measured = sum(budget.parabola is None for budget in one.budgets)
        if one.loss_law and measured:
            lines.append(
                f"{who}of these points {measured} are the lowest loss that was measured, for want of a best size."
            )
        lines += [f"{who}no fit of {what}: {reason}." for what, reason in one.why_not.items()]
    return lines


def law_text(law: PowerLaw) -> str:
    """The law as a formula, with its points and the range of its exponent when any one of them is left out."""
    floor = f"{law.floor:.3f} + " if law.floor else ""
    others = law.exponent_range
    spread = f", exponent {others[0]:.3f} to {others[1]:.3f} without any one of them" if others else ""
    return f"{floor}{law.scale:.3g} x FLOPs^{law.exponent:.3f} ({law.points} points, R² {law.r_squared:.4f}{spread})"


def scaling_dict(series: list[Series]) -> list[dict[str, Any]]:
    """The series as JSON values."""
    return [asdict(one) for one in series]


def _series(label: str, points: list[Point]) -> Series:
    budgets = _budgets(points)
    why_not: dict[str, str] = {}
    size_law = tokens_law = None
    if budgets:
        found = [(b.flops, b.parabola, b.tokens_at_best) for b in budgets if b.parabola and b.tokens_at_best]
        compute = [flops for flops, _, _ in found]
        scaling_points = [(budget.flops, budget.lowest) for budget in budgets]
        sizes, tokens = [parabola.best_size for _, parabola, _ in found], [tokens for _, _, tokens in found]
        size_law = _law(fit_power_law, compute, sizes, "best size over FLOPs", why_not)
        tokens_law = _law(fit_power_law, compute, tokens, "its tokens over FLOPs", why_not)
    else:
        chosen = list(range(len(points)))
        if any(key in point.settings for point in points for key in LENGTH_KEYS):  # some sizes are trained too short
            chosen = frontier([point.flops for point in points], [point.loss for point in points])
        scaling_points = [(points[i].flops, points[i].loss) for i in chosen]
    loss_law = _law(
        fit_saturating_power_law,
        [flops for flops, _ in scaling_points],
        [loss for _, loss in scaling_points],
        "loss over FLOPs",
        why_not,
    )
    return Series(label, points, budgets, scaling_points, loss_law, size_law, tokens_law, why_not)


def _law(
    fit: Callable[[Sequence[float], Sequence[float]], PowerLaw],
    x: Sequence[float],
    y: Sequence[float],
    what: str,
    why_not: dict[str, str],
) -> PowerLaw | None:
    try:
        return fit(x, y)
    except NoFit as reason:
        why_not[what] = str(reason)
        return None


def _points(runs: list[SweepRun], loss: str) -> list[Point]:
    by_settings: dict[str, list[SweepRun]] = defaultdict(list)
    for run in runs:
        by_settings[_words({key: value for key, value in run.settings.items() if key != SEED_KEY})].append(run)
    return [
        Point(
            settings={key: value for key, value in same[0].settings.items() if key != SEED_KEY},
            size=statistics.fmean(run.scaling_parameters for run in same),
            tokens=statistics.fmean(run.tokens for run in same),
            flops=statistics.fmean(run.flops for run in same),
            loss=statistics.fmean(run.losses[loss] for run in same),
        )
        for same in by_settings.values()
    ]


def _budgets(points: list[Point]) -> list[Budget]:
    by_target: dict[float, list[Point]] = defaultdict(list)
    for point in points:
        if "target_flops" in point.settings:
            by_target[float(point.settings["target_flops"])].append(point)
    if not any(len({point.size for point in same}) > 1 for same in by_target.values()):
        return []
    return [_budget(target, sorted(same, key=lambda point: point.size)) for target, same in sorted(by_target.items())]


def _budget(target: float, points: list[Point]) -> Budget:
    flops = statistics.fmean(point.flops for point in points)
    sizes = [point.size for point in points]
    try:
        parabola = fit_parabola(sizes, [point.loss for point in points])
    except NoFit as reason:
        return Budget(target, flops, points, None, None, str(reason))
    tokens = np.interp(np.log(parabola.best_size), np.log(sizes), np.log([point.tokens for point in points]))
    return Budget(target, flops, points, parabola, float(np.exp(tokens)), "")


def _words(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())
