"""Plots of a run as PNG files, from its metrics.jsonl alone."""

import math
from pathlib import Path

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
    for name, words, style in (
        ("loss", "training", {"color": "#4c72b0", "linewidth": 1.4}),
        ("val_loss", "held out", {"color": "#dd8452", "linewidth": 1.8, "marker": "o", "markersize": 4}),
    ):
        points = [(record["tokens"], record[name]) for record in records if name in record]
        if points:
            tokens, losses = zip(*points, strict=True)
            axis.plot(tokens, losses, label=f"{words}, last {losses[-1]:.3f}", **style)
    axis.set_xlabel("tokens seen")
    axis.set_ylabel("loss (nats per token)")
    axis.xaxis.set_major_formatter(lambda value, _: _short(value))
    axis.set_title(title or f"Loss of {folder.parent.name}/{folder.name}", loc="left")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    if bytes_per_token:
        scale = math.log(2) * bytes_per_token
        other = axis.secondary_yaxis("right", functions=(lambda nats: nats / scale, lambda bits: bits * scale))
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
