"""Pictures of a sweep: loss over FLOPs with its law, and the parabolas of equal FLOPs with the sizes they point to."""

import itertools
from pathlib import Path

import numpy as np

from hfgpt.report.plots import COLORS, calm, log_losses, pyplot
from hfgpt.report.scaling import Series
from hfgpt.report.sweep_results import LOSS_NAMES, SweepRun
from hfgpt.report.tables import short_number

SCALING_PLOT = "scaling.png"
ISOFLOP_PLOT = "isoflop.png"
FORECAST = 3.0  # a law is drawn dashed up to this multiple of the largest compute


def plot_scaling(runs: list[SweepRun], series: list[Series], loss_name: str, folder: Path) -> Path:
    """`scaling.png`: every run's loss while it trains (faint) and at its end (dots, darker for larger models), and the
    fitted law."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(8.5, 5), dpi=150, layout="constrained")
    sizes = [run.scaling_parameters for run in runs]
    shade = plt.get_cmap("viridis_r")
    span = np.log(max(sizes) / min(sizes)) or 1.0
    ends = [run.losses[loss_name] for run in runs]
    for run in runs:
        color = shade(0.1 + 0.85 * np.log(run.scaling_parameters / min(sizes)) / span)
        flops, losses = run.curve(loss_name)
        axis.plot(flops, losses, color=color, linewidth=0.9, alpha=0.45)
        axis.plot(
            run.flops, run.losses[loss_name], "o", color=color, markersize=6.5, markeredgecolor="white", zorder=4
        )
    for one, color in zip(series, itertools.cycle(COLORS[1:])):  # the first looks like one of the shades
        if one.loss_law is None:
            continue
        compute = [flops for flops, _ in one.scaling_points]
        inside = np.geomspace(min(compute), max(compute), 200)
        beyond = np.geomspace(max(compute), FORECAST * max(compute), 50)
        law = one.loss_law
        floor = f"{law.floor:.2f} + " if law.floor else ""
        label = f"{one.label + ': ' if one.label else ''}{floor}$A \\cdot C^{{{law.exponent:.3f}}}$"
        axis.plot(inside, law(inside), color=color, linewidth=1.8, label=label, zorder=3)
        axis.plot(beyond, law(beyond), color=color, linewidth=1.4, linestyle=(0, (4, 3)), zorder=3)
        if one.budgets:
            axis.plot(
                *zip(*one.scaling_points, strict=True),
                "D",
                color=color,
                markersize=5,
                label="lowest loss of a budget",
                zorder=5,
            )
    axis.set_xscale("log")
    tenth = (max(ends) / min(ends)) ** 0.1  # of the range that the ends take up, as a factor
    axis.set_ylim(min(ends) / tenth / 1.01, max(ends) * tenth**3 * 1.01)
    log_losses(axis)
    axis.set_xlim(right=FORECAST * 1.1 * max(run.flops for run in runs))
    axis.set_xlabel("training compute C (FLOPs)")
    axis.set_ylabel(LOSS_NAMES[loss_name])
    axis.set_title(f"{len(runs)} runs, {short_number(min(sizes))} to {short_number(max(sizes))} weights", loc="left")
    _size_key(figure, axis, plt, shade, sizes)
    if any(one.loss_law for one in series):
        axis.legend(frameon=False, loc="upper right")
    calm(axis)
    path = folder / SCALING_PLOT
    figure.savefig(path)
    plt.close(figure)
    return path


def plot_isoflop(series: Series, loss_name: str, path: Path) -> Path:
    """A parabola for each budget, and beside them, where the budgets bear them, the laws of the best size and its
    tokens."""
    plt = pyplot()
    has_laws = series.size_law is not None and series.tokens_law is not None
    figure, axes = plt.subplots(
        1, 2 if has_laws else 1, figsize=(12.5 if has_laws else 8, 5), dpi=150, layout="constrained", squeeze=False
    )
    axis = axes[0, 0]
    shades = plt.get_cmap("plasma")(np.linspace(0.05, 0.8, len(series.budgets)))
    for budget, color in zip(series.budgets, shades, strict=True):
        sizes = np.array([point.size for point in budget.points])
        losses = [point.loss for point in budget.points]
        axis.plot(sizes, losses, "o", color=color, label=f"{_power_of_ten(budget.flops)} FLOPs")
        if budget.parabola is None:
            axis.plot(sizes, losses, color=color, linewidth=1, linestyle=":")
            continue
        best, smooth = budget.parabola, np.geomspace(sizes.min(), sizes.max(), 200)
        axis.plot(smooth, best(smooth), color=color, linewidth=1.6)
        axis.plot(best.best_size, best.lowest, "*", color=color, markersize=15, markeredgecolor="white", zorder=5)
    axis.set_xscale("log")
    log_losses(axis)
    axis.minorticks_off()
    tried = sorted({point.size for point in series.points})
    axis.set_xticks(tried, [short_number(size) for size in tried])
    axis.set_xlabel("weights of blocks and head")
    axis.set_ylabel(LOSS_NAMES[loss_name])
    axis.set_title("equal compute, different sizes", loc="left")
    axis.legend(frameon=False)
    calm(axis)
    if has_laws:
        _draw_best(axes[0, 1], series)
    figure.savefig(path)
    plt.close(figure)
    return path


def _power_of_ten(number: float) -> str:
    """`3.0e10` -> `$3.0 \\cdot 10^{10}$`."""
    mantissa, exponent = f"{number:.1e}".split("e")
    return f"${mantissa} \\cdot 10^{{{int(exponent)}}}$"


def _draw_best(axis, series: Series) -> None:
    """Best size and its tokens over compute, in logarithms."""
    found = [budget for budget in series.budgets if budget.parabola and budget.tokens_at_best]
    compute = np.array([budget.flops for budget in found])
    smooth = np.geomspace(compute.min() / 1.3, compute.max() * FORECAST, 100)
    rows = (
        ("best size", series.size_law, [b.parabola.best_size for b in found if b.parabola], COLORS[0]),
        ("its tokens", series.tokens_law, [b.tokens_at_best for b in found], COLORS[1]),
    )
    for name, law, values, color in rows:
        assert law is not None
        axis.plot(compute, values, "*", color=color, markersize=13, markeredgecolor="white", zorder=4)
        axis.plot(smooth, law(smooth), color=color, linewidth=1.6, label=f"{name} $\\propto C^{{{law.exponent:.2f}}}$")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter(lambda value, _: short_number(value))
    axis.set_xlabel("training compute C (FLOPs)")
    axis.set_ylabel("weights, tokens")
    axis.set_title("what the minima point to", loc="left")
    axis.legend(frameon=False)
    calm(axis)


def _size_key(figure, axis, plt, shade, sizes: list[int]) -> None:
    """A colour bar in weights, where there is more than one size."""
    if min(sizes) == max(sizes):
        return
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    used = LinearSegmentedColormap.from_list("used", shade(np.linspace(0.1, 0.95, 64)))
    bar = figure.colorbar(ScalarMappable(LogNorm(min(sizes), max(sizes)), used), ax=axis, pad=0.01, aspect=30)
    marks = np.geomspace(min(sizes), max(sizes), 4)
    bar.set_ticks(marks.tolist(), labels=[short_number(mark) for mark in marks])
    bar.ax.minorticks_off()
    bar.outline.set_visible(False)
    bar.set_label("weights of blocks and head")
