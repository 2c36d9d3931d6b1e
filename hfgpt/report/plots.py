"""Plots of a run as PNG files, from its metrics.jsonl alone."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hfgpt.training.record import METRICS_FILE, read_records

LOSS_PLOT = "loss.png"


def plot_loss(folder: Path, bytes_per_token: float | None = None, title: str | None = None) -> Path:
    """Draw training and held-out loss over tokens from `folder/metrics.jsonl` into `folder/loss.png`.

    With `bytes_per_token` known, a second axis gives bits per byte.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

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
    axis.xaxis.set_major_formatter(lambda value, _: _short(value))
    axis.set_title(title or f"Loss of {folder.parent.name}/{folder.name}", loc="left")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
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


def _short(number: float) -> str:
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            return f"{number / unit:g}{letter}"
    return f"{number:g}"
