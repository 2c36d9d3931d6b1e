"""Pictures of a run's timeline: losses, and abilities with their standard errors, over the tokens of all stages."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfgpt.report.plots import COLORS, calm, log_losses, pyplot
from hfgpt.report.tables import short_number
from hfgpt.report.timeline import Curve, Timeline

# DPO's and GRPO's losses are of another kind: no cross entropy, and no curve beside one.
CROSS_ENTROPY = ("pretrain", "midtrain", "sft")
WIDTH, PANEL_HEIGHT = 5.4, 2.2  # inches: few, so that words stay legible on a phone, 390 pixels wide
ABILITY_HEIGHT = 1.6
TOKENS_LABEL = "tokens, all stages together"


def plot_losses(timeline: Timeline, path: Path) -> Path | None:
    """Loss, bits per byte and reward, a panel each where they were written; None where none was."""
    panels = [
        (title, training, held_out)
        for title, training, held_out in (
            (
                "loss (nats per token)",
                timeline.metric("loss", CROSS_ENTROPY),
                timeline.metric("val_loss", CROSS_ENTROPY),
            ),
            ("bits per byte, held out", [], timeline.metric("val_bits_per_byte")),
            ("reward", timeline.metric("reward"), []),
        )
        if training or held_out
    ]
    if not panels:
        return None
    plt = pyplot()
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(WIDTH, PANEL_HEIGHT * len(panels) + 0.3), dpi=150, layout="constrained", squeeze=False
    )
    place = timeline.positions()
    for row, (axis, (title, training, held_out)) in enumerate(zip(axes[:, 0], panels, strict=True)):
        for curves, label, color, marker in (
            (training, "training", COLORS[0], ""),
            (held_out, "held out", COLORS[1], "o"),
        ):
            for number, curve in enumerate(curves):
                x = [place(tokens) for tokens in curve.tokens]
                few = marker or ("." if len(x) < 3 else "")
                axis.plot(x, curve.values, color=color, marker=few, markersize=4, linewidth=1.5,
                          label=label if number == 0 else None)  # fmt: skip
        if title.startswith("loss"):
            log_losses(axis)
            axis.legend(frameon=False, fontsize=9)
        axis.set_title(title, loc="left", fontsize=11, pad=16 if row == 0 else 6)
        _mark_stages(axis, timeline, place, with_names=row == 0, with_tokens=row == len(panels) - 1)
        calm(axis)
    figure.savefig(path)
    plt.close(figure)
    return path


def plot_abilities(timeline: Timeline, path: Path) -> Path | None:
    """A small panel an ability, with a band of one standard error; None where nothing was scored."""
    abilities = timeline.abilities()
    if not abilities:
        return None
    plt = pyplot()
    rows = math.ceil(len(abilities) / 2)
    figure, axes = plt.subplots(
        rows,
        2,
        figsize=(WIDTH, ABILITY_HEIGHT * rows + 0.5),
        dpi=150,
        layout="constrained",
        squeeze=False,
        sharex=True,
    )
    place = timeline.positions()
    for number, (axis, (name, curves)) in enumerate(zip(axes.flat, abilities.items(), strict=False)):
        _draw_ability(axis, curves, place)
        axis.set_title(_in_lines(name), loc="left", fontsize=9, pad=31 if number < 2 else 4)
        _mark_stages(axis, timeline, place, with_names=number < 2, with_tokens=number // 2 == rows - 1,
                     is_narrow=True)  # fmt: skip
        calm(axis)
    for axis in axes.flat[len(abilities) :]:
        axis.set_visible(False)
    figure.savefig(path)
    plt.close(figure)
    return path


def _draw_ability(axis: Any, curves: list[Curve], place: Callable[[float], float]) -> None:
    """One line over all stages: what a stage measures first is what the stage before left."""
    points = [
        (place(tokens), 100 * value, 100 * (error or 0.0))
        for curve in curves
        for tokens, value, error in zip(curve.tokens, curve.values, curve.errors, strict=True)
    ]
    x, y, noise = (list(column) for column in zip(*points, strict=True))
    low, high = ([v + sign * e for v, e in zip(y, noise, strict=True)] for sign in (-1, 1))
    axis.fill_between(x, low, high, color=COLORS[0], alpha=0.2, linewidth=0)
    axis.plot(x, y, color=COLORS[0], marker="o", markersize=3.5, linewidth=1.6)
    axis.set_ylim(min(0, *low) - 4, 104)
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:.0f}%")


def _mark_stages(
    axis: Any,
    timeline: Timeline,
    place: Callable[[float], float],
    *,
    with_names: bool,
    with_tokens: bool,
    is_narrow: bool = False,
):
    """Every second stage shaded, a tick at each boundary, and the names above where asked for."""
    ends = [place(stage.end) for stage in timeline.stages]
    for number, (stage, left, right) in enumerate(zip(timeline.stages, [0.0, *ends], ends, strict=False)):
        if number % 2:
            axis.axvspan(left, right, color="0.94", zorder=0, linewidth=0)
        if with_names:
            axis.text((left + right) / 2, 1.02, stage.name, transform=axis.get_xaxis_transform(),
                      ha="left" if is_narrow else "center", rotation=40 if is_narrow else 0,
                      rotation_mode="anchor", fontsize=8, color="0.35")  # fmt: skip
    axis.set_xlim(0, 1.005)
    axis.set_xticks(
        [0, *ends], ["0", *(short_number(stage.end) for stage in timeline.stages)], fontsize=8, rotation=40
    )
    axis.tick_params(axis="x", labelbottom=with_tokens)
    axis.tick_params(axis="y", labelsize=8.5)
    if with_tokens:
        axis.set_xlabel(TOKENS_LABEL, fontsize=9)


def _in_lines(name: str, width: int = 30) -> str:
    """A long name broken at a space or a comma into lines of about `width` characters."""
    import textwrap

    return "\n".join(textwrap.wrap(name, width))
