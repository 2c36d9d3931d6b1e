"""Plots of a run as PNG files, from its metrics.jsonl alone."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfgpt.report.tables import short_number
from hfgpt.training.record import METRICS_FILE, read_records

LOSS_PLOT = "loss.png"
# Seven colours that stay apart in print and for colour-blind eyes (Okabe and Ito 2008), yellow left out.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4d4d4d")


def pyplot():
    """matplotlib's pyplot, drawing into files; imported by who draws, since that takes a second."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def calm(axis) -> None:
    """A faint grid, and no frame but the two axes."""
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def log_losses(axis) -> None:
    """A logarithmic y axis with plain numbers at its ticks, whose limits are as they will be."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    is_wide = high > 2.5 * low
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6, 8), numticks=20) if is_wide else MaxNLocator(7))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def plot_loss(folder: Path, bytes_per_token: float | None = None, title: str | None = None) -> Path:
    """Draw training and held-out loss over tokens from `folder/metrics.jsonl` into `folder/loss.png`.

    With `bytes_per_token` known, a second axis gives bits per byte.
    """
    plt = pyplot()
    records = read_records(folder / METRICS_FILE)
    figure, axis = plt.subplots(figsize=(8, 4.5), dpi=130, layout="constrained")
    curves = (("loss", "training", "#4c72b0", ""), ("val_loss", "held out", "#dd8452", "o"))
    for name, words, color, marker in curves:
        points = [(record["tokens"], record[name]) for record in records if name in record]
        if points:
            tokens, losses = zip(*points, strict=True)
            label = f"{words}, last {losses[-1]:.3f}"
            axis.plot(tokens, losses, label=label, color=color, marker=marker, markersize=4, linewidth=1.6)
    axis.set_xlabel("tokens seen")
    axis.set_ylabel("loss (nats per token)")
    axis.xaxis.set_major_formatter(lambda value, _: short_number(value))
    axis.set_title(title or f"Loss of {folder.parent.name}/{folder.name}", loc="left")
    calm(axis)
    axis.legend(frameon=False)
    if bytes_per_token:
        scale = math.log(2) * bytes_per_token
        to_bits: Callable[[Any], Any] = lambda nats: nats / scale  # noqa: E731
        to_nats: Callable[[Any], Any] = lambda bits: bits * scale  # noqa: E731
        other = axis.secondary_yaxis("right", functions=(to_bits, to_nats))
        other.set_ylabel("bits per byte")
    path = folder / LOSS_PLOT
    figure.savefig(path)
    plt.close(figure)
    return path
