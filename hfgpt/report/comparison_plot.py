"""The picture of a comparison: loss over tokens, FLOPs and time, and below it what the runs can do."""

from pathlib import Path
from typing import Any

from hfgpt.report.abilities import abilities_among
from hfgpt.report.comparison import ComparedRun, compared_loss, scored_stages
from hfgpt.report.plots import COLORS, calm, pyplot
from hfgpt.report.sweep_results import LOSS_NAMES
from hfgpt.report.tables import short_number

IN_NATS = {"val_bits_per_byte": "val_loss", "val_loss": "val_loss"}  # the same figure in the unit of training loss
PANEL_HEIGHT, ABILITY_HEIGHT = 4.2, 0.34  # inches
FEW_POINTS = 3


def plot_comparison(runs: list[ComparedRun], path: Path) -> Path:
    """Draw the comparison into `path`."""
    plt = pyplot()
    loss = compared_loss(runs)
    colors = {run.name: plt.get_cmap("viridis")(i / (len(runs) - 1)) for i, run in enumerate(runs)}
    if len(runs) <= len(COLORS):
        colors = {run.name: color for run, color in zip(runs, COLORS, strict=False)}
    stage = next(reversed(scored_stages(runs)), "")
    abilities = abilities_among([run.scores.get(stage, {}) for run in runs])
    below = ABILITY_HEIGHT * len(abilities) * (0.7 + 0.12 * len(runs)) + 0.9 if abilities else 0.0
    figure = plt.figure(figsize=(13, PANEL_HEIGHT + below), dpi=150, layout="constrained")
    top = figure
    if abilities:
        top, bottom = figure.subfigures(2, 1, height_ratios=[PANEL_HEIGHT, below])
        _draw_abilities(bottom.subplots(), abilities, runs, colors, stage)
    axes = top.subplots(1, 3, sharey=True)
    unit, word = _time_unit(runs)
    panels = (
        ("tokens", 1.0, "training tokens"),
        ("flops", 1.0, "training FLOPs"),
        ("seconds", unit, f"{word} of training"),
    )
    for axis, (column, scale, label) in zip(axes, panels, strict=True):
        for run in runs:
            _draw_curve(axis, run, column, scale, loss, colors[run.name])
        axis.set_xlabel(label)
        axis.set_xlim(left=0)
        calm(axis)
    axes[0].xaxis.set_major_formatter(lambda value, _: short_number(value))
    axes[1].ticklabel_format(axis="x", style="sci", scilimits=(0, 0), useMathText=True)
    axes[0].set_ylabel(LOSS_NAMES[loss])
    axes[0].set_ylim(*_range_shown(runs, loss))
    axes[0].legend(frameon=False)
    axes[0].set_title("the same data", loc="left")
    axes[1].set_title("the same compute", loc="left")
    axes[2].set_title("the same time", loc="left")
    figure.savefig(path)
    plt.close(figure)
    return path


def _draw_curve(axis, run: ComparedRun, column: str, scale: float, loss: str, color: Any) -> None:
    """Held-out loss as a line with dots; behind it, faint, training loss in the same unit."""
    x, losses = run.curve(column, loss)
    if loss in IN_NATS:
        seen, training = _training_curve(run, column, loss)
        axis.plot([value / scale for value in seen], training, color=color, linewidth=0.8, alpha=0.4)
    axis.plot(
        [value / scale for value in x],
        losses,
        color=color,
        linewidth=1.8,
        marker="o" if loss in IN_NATS else "",
        markersize=4,
        label=f"{run.name}: {losses[-1]:.4f}",
    )


def _training_curve(run: ComparedRun, column: str, loss: str) -> tuple[list[float], list[float]]:
    """Training loss, turned from nats per token into the unit of `loss` by the run's held-out figures."""
    ratio = (run.last(loss) or 0.0) / (run.last(IN_NATS[loss]) or 1.0)
    x, nats = run.curve(column, "loss")
    return x, [value * ratio for value in nats]


def _draw_abilities(axis, abilities, runs: list[ComparedRun], colors: dict[str, Any], stage: str) -> None:
    """A row an ability, a dot a run, with one standard error to each side."""
    gap = 0.5 / max(1, len(runs) - 1)
    for row, ability in enumerate(abilities):
        if row % 2:
            axis.axhspan(row - 0.5, row + 0.5, color="0.96", zorder=0)
        for i, (run, value, error) in enumerate(zip(runs, ability.values, ability.errors, strict=True)):
            if value is not None:
                y = row + (i - (len(runs) - 1) / 2) * gap
                axis.errorbar(100 * value, y, xerr=100 * (error or 0), fmt="o", color=colors[run.name], markersize=6)
    axis.set_yticks(range(len(abilities)), [ability.name for ability in abilities])
    axis.set_ylim(len(abilities) - 0.5, -0.5)
    axis.set_xlim(-2, 102)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")
    axis.set_title(f"abilities after {stage}, with standard errors", loc="left")
    calm(axis)
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)


def _time_unit(runs: list[ComparedRun]) -> tuple[float, str]:
    longest = max(run.records[-1]["seconds"] for run in runs)
    if longest >= 3600:
        return 3600.0, "hours"
    return (60.0, "minutes") if longest >= 120 else (1.0, "seconds")


def _range_shown(runs: list[ComparedRun], loss: str) -> tuple[float, float]:
    """From a little below the lowest loss up to the loss at a twentieth of each run's tokens: the first steps fall
    from far above. Where hardly any held-out loss was written, training loss decides."""
    lowest, highest = float("inf"), 0.0
    for run in runs:
        tokens, losses = run.curve("tokens", loss)
        lowest = min(lowest, *losses)
        if len(tokens) < FEW_POINTS and loss in IN_NATS:
            tokens, losses = _training_curve(run, "tokens", loss)
        early = [value for seen, value in zip(tokens, losses, strict=True) if seen >= tokens[-1] / 20]
        lowest, highest = min(lowest, *early), max(highest, early[0])
    margin = 0.06 * (highest - lowest) + 0.01
    return lowest - margin, highest + margin
