"""Curves through the results of a sweep, by least squares: a parabola through equal FLOPs, a power law along compute.
A fit that the points cannot bear raises NoFit with the reason; there is never a made-up one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

# Exponents among which a saturating power law is sought. Published ones for loss over compute lie between 0.05
# (Kaplan et al. 2020, arXiv:2001.08361) and 0.2 (Hoffmann et al. 2022, arXiv:2203.15556).
EXPONENTS = np.geomspace(0.005, 2.0, 800)
MIN_POINTS_PARABOLA = 3
MIN_POINTS_POWER_LAW = 3  # two unknowns: a third point can contradict the line
MIN_POINTS_SATURATING = 4  # three unknowns
MIN_R_SQUARED = 0.9


class NoFit(ValueError):
    """The points cannot bear this fit; the message says why, as half a sentence."""


@dataclass(frozen=True)
class Parabola:
    """`loss(size) = lowest + curvature * ln(size / best_size) ** 2`, runs of equal FLOPs over their parameters."""

    best_size: float
    lowest: float
    curvature: float

    def __call__(self, size: np.ndarray) -> np.ndarray:
        return self.lowest + self.curvature * np.log(size / self.best_size) ** 2


@dataclass(frozen=True)
class PowerLaw:
    """`y(x) = floor + scale * x ** exponent`.

    `exponent_range` holds the least and the greatest exponent when any one of the points is left out; None where the
    others are too few. `r_squared` is the share of the variance that the law explains (of ln y where floor is 0).
    """

    floor: float
    scale: float
    exponent: float
    points: int
    r_squared: float
    exponent_range: tuple[float, float] | None = None

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.floor + self.scale * x**self.exponent


def fit_parabola(sizes: Sequence[float], losses: Sequence[float]) -> Parabola:
    """Least squares over ln size. Raises NoFit for fewer than three sizes, and unless the lowest loss, measured and
    fitted, lies between the smallest and the largest size."""
    x, y = _points(sizes, losses, MIN_POINTS_PARABOLA, "sizes at equal FLOPs")
    lowest_at = x[y.argmin()]
    for end, which, more in ((x.min(), "smallest", "smaller"), (x.max(), "largest", "larger")):
        if lowest_at == end:
            raise NoFit(f"the {which} size has the lowest loss: add {more} ones")
    middle = float(np.log(x).mean())
    square, linear, constant = np.polyfit(np.log(x) - middle, y, 2)
    best_size = float(np.exp(middle - linear / (2 * square)))
    if square <= 0 or not x.min() <= best_size <= x.max():
        raise NoFit("the sizes scatter too much for a minimum: add seeds or sizes")
    return Parabola(best_size, float(constant - linear**2 / (4 * square)), float(square))


def fit_power_law(x: Sequence[float], y: Sequence[float]) -> PowerLaw:
    """`y = scale * x ** exponent`, a straight line in logarithms. Raises NoFit for fewer than three different x."""
    return _with_range(_straight_line, *_points(x, y, MIN_POINTS_POWER_LAW, "points"), MIN_POINTS_POWER_LAW)


def fit_saturating_power_law(compute: Sequence[float], losses: Sequence[float]) -> PowerLaw:
    """`loss = E + A * C ** -alpha` with E >= 0 and A > 0, as a PowerLaw whose exponent is `-alpha`.

    Raises NoFit for fewer than four different C, where the loss does not fall, and where the best alpha is at the end
    of all that are tried.
    """
    points = _points(compute, losses, MIN_POINTS_SATURATING, "amounts of compute")
    return _with_range(_saturating, *points, MIN_POINTS_SATURATING)


def _straight_line(x: np.ndarray, y: np.ndarray) -> PowerLaw:
    exponent, offset = np.polyfit(np.log(x), np.log(y), 1)
    explained = _r_squared(np.log(y), offset + exponent * np.log(x))
    return PowerLaw(0.0, float(np.exp(offset)), float(exponent), len(x), explained)


def _saturating(x: np.ndarray, y: np.ndarray) -> PowerLaw:
    best = _best_of(EXPONENTS, x, y)
    if best.scale <= 0:
        raise NoFit("the loss does not fall as compute grows")
    if -best.exponent in (EXPONENTS[0], EXPONENTS[-1]):
        raise NoFit("the points do not bend like a power law: a wider range of compute is needed")
    step = EXPONENTS[1] / EXPONENTS[0]
    law = _best_of(np.linspace(-best.exponent / step, -best.exponent * step, 200), x, y)
    if law.r_squared < MIN_R_SQUARED:
        raise NoFit(f"the points are not on a power law, which would explain only {law.r_squared:.0%} of their spread")
    return law


def _best_of(alphas: np.ndarray, x: np.ndarray, y: np.ndarray) -> PowerLaw:
    """For each alpha E and A follow from linear least squares, so all alphas can be tried, and no starting point
    decides."""
    center = float(np.exp(np.log(x).mean()))
    powers = (x / center)[None, :] ** -alphas[:, None]  # (alphas, points)
    deviations = powers - powers.mean(axis=1, keepdims=True)
    scales = (deviations * (y - y.mean())).sum(axis=1) / (deviations**2).sum(axis=1)
    floors = y.mean() - scales * powers.mean(axis=1)
    below_zero = floors < 0  # no loss is: the best law whose floor is 0 instead
    scales = np.where(below_zero, (powers * y).sum(axis=1) / (powers**2).sum(axis=1), scales)
    floors = np.where(below_zero, 0.0, floors)
    fitted = floors[:, None] + scales[:, None] * powers
    best = int(((fitted - y) ** 2).sum(axis=1).argmin())
    alpha = float(alphas[best])
    return PowerLaw(
        floor=float(floors[best]),
        scale=float(scales[best]) * center**alpha,
        exponent=-alpha,
        points=len(x),
        r_squared=_r_squared(y, fitted[best]),
    )


def frontier(compute: Sequence[float], losses: Sequence[float]) -> list[int]:
    """Indices of the points that no point of equal or less compute beats, by rising compute."""
    kept: list[int] = []
    for i in sorted(range(len(compute)), key=lambda i: (compute[i], losses[i])):
        if not kept or losses[i] < losses[kept[-1]]:
            kept.append(i)
    return kept


def _points(x: Sequence[float], y: Sequence[float], minimum: int, what: str) -> tuple[np.ndarray, np.ndarray]:
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    different = len(set(xs.tolist()))
    if different < minimum:
        raise NoFit(f"{different} {what}, and a fit needs at least {minimum}")
    return xs, ys


def _with_range(
    fit: Callable[[np.ndarray, np.ndarray], PowerLaw], x: np.ndarray, y: np.ndarray, minimum: int
) -> PowerLaw:
    """The fit, with the range of its exponent when each point in turn is left out."""
    law = fit(x, y)
    exponents = []
    for i in range(len(x)):
        others = np.delete(x, i)
        if len(set(others.tolist())) < minimum:
            return law
        try:
            exponents.append(fit(others, np.delete(y, i)).exponent)
        except NoFit:
            return law
    return replace(law, exponent_range=(min(exponents), max(exponents)))


def _r_squared(y: np.ndarray, fitted: np.ndarray) -> float:
    spread = float(((y - y.mean()) ** 2).sum())
    return 1 - float(((y - fitted) ** 2).sum()) / spread if spread else 0.0
