"""What the runs of a sweep came to: rows for a table, read from the folders that they left."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hfgpt.report.tables import markdown_table, short_number, short_time
from hfgpt.training.budget import scaling_parameters
from hfgpt.training.record import METRICS_FILE, read_records
from hfgpt.whole_files import read_object
from hfgpt.workspace import FINAL_METRICS, IDENTITY_FILE


@dataclass(frozen=True)
class SweepRun:
    """One complete run. `settings` are its values of the swept keys; `scaling_parameters` are the block matrices and
    the head, which `target_param_data_ratio` counts; `loss` is in bits per byte, or in nats per held-out or training
    token where there is no better figure, as `SweepRun.loss_name` says."""

    name: str
    settings: dict[str, Any]
    folder: Path
    parameters: int
    scaling_parameters: int
    tokens: int
    flops: float
    seconds: float
    losses: dict[str, float]

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds

    def as_dict(self) -> dict[str, Any]:
        """The row of the CSV and JSON files: plain numbers, seconds, FLOPs."""
        return {
            "run": self.name,
            **self.settings,
            "parameters": self.parameters,
            "scaling_parameters": self.scaling_parameters,
            "tokens": self.tokens,
            "tokens_per_scaling_parameter": self.tokens / self.scaling_parameters,
            "flops": self.flops,
            **self.losses,
            "seconds": self.seconds,
            "tokens_per_second": self.tokens_per_second,
        }

    def curve(self, loss_name: str) -> tuple[list[float], list[float]]:
        """(FLOPs, loss) during the training of this run."""
        records = [record for record in read_records(self.folder / METRICS_FILE) if loss_name in record]
        return [record["flops"] for record in records], [record[loss_name] for record in records]


# The best figure first: bits per byte compares runs of different vocabularies, too.
LOSS_NAMES = {
    "val_bits_per_byte": "bits per byte",
    "val_loss": "held-out loss (nats per token)",
    "loss": "training loss (nats per token)",
}


def read_sweep_run(name: str, settings: dict[str, Any], folder: Path) -> SweepRun:
    """The complete run that a stage left in `folder`."""
    final = read_object(folder / FINAL_METRICS)
    identity = read_object(folder / IDENTITY_FILE)
    return SweepRun(
        name=name,
        settings=settings,
        folder=folder,
        parameters=final["parameters"],
        scaling_parameters=scaling_parameters(identity["architecture"]),
        tokens=final["tokens"],
        flops=final["flops"],
        seconds=final["seconds"],
        losses={loss: final[loss] for loss in LOSS_NAMES if final[loss] is not None},
    )


def shared_loss(runs: list[SweepRun]) -> str:
    """The best loss that every run has."""
    return next(name for name in LOSS_NAMES if all(name in run.losses for run in runs))


def sweep_table(runs: list[SweepRun]) -> str:
    """The Markdown table; the lowest loss is marked by an asterisk."""
    loss = shared_loss(runs)
    lowest = min(run.losses[loss] for run in runs)
    header = [
        "run",
        "parameters",
        "blocks + head",
        "tokens",
        "tokens each",
        "FLOPs",
        LOSS_NAMES[loss],
        "time",
        "tokens/s",
    ]
    rows = [
        [
            run.name,
            short_number(run.parameters),
            short_number(run.scaling_parameters),
            short_number(run.tokens),
            f"{run.tokens / run.scaling_parameters:.1f}",
            f"{run.flops:.2e}",
            f"{run.losses[loss]:.4f}{'*' if run.losses[loss] == lowest else ' '}",
            short_time(run.seconds),
            f"{run.tokens_per_second:,.0f}",
        ]
        for run in runs
    ]
    return markdown_table(header, rows)


def write_rows(runs: list[SweepRun], path: Path) -> None:
    """One line a run, as CSV."""
    rows = [run.as_dict() for run in runs]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)
