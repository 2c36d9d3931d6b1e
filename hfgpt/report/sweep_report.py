"""The report of a sweep, `sweep.md`, with its table as CSV, everything as JSON, and pictures."""

import json
from pathlib import Path

from hfgpt.report.scaling import analyse, scaling_dict, scaling_lines
from hfgpt.report.sweep_plots import ISOFLOP_PLOT, SCALING_PLOT, plot_isoflop, plot_scaling
from hfgpt.report.sweep_results import SweepRun, shared_loss, sweep_table, write_rows

REPORT, TABLE, RESULTS = "sweep.md", "sweep.csv", "sweep.json"


def write_sweep_report(runs: list[SweepRun], failed: dict[str, str], folder: Path, command: str) -> Path:
    """Write the report of the complete `runs` (at least one) and of what `failed`, run by sentence, into `folder`.

    One run is a table without pictures. Returns the path of `sweep.md`.
    """
    loss = shared_loss(runs)
    for old in (*folder.glob(ISOFLOP_PLOT.replace(".", "*.")), folder / SCALING_PLOT):
        old.unlink(missing_ok=True)
    series = analyse(runs) if len(runs) > 1 else []
    pictures = [plot_scaling(runs, series, loss, folder)] if series else []
    for number, one in enumerate(series, start=1):
        if one.budgets:
            pictures.append(
                plot_isoflop(one, loss, folder / ISOFLOP_PLOT.replace(".", f"-{number}." if len(series) > 1 else "."))
            )
    write_rows(runs, folder / TABLE)
    results = {
        "kind": "sweep",
        "command": command,
        "loss": loss,
        "runs": [run.as_dict() for run in runs],
        "failed": failed,
        "scaling": scaling_dict(series),
    }
    (folder / RESULTS).write_text(json.dumps(results, indent=1), encoding="utf-8")
    parts = [f"# Sweep {folder.name}", f"`{command}`", "## Runs", sweep_table(runs)]
    parts += ["\n".join(f"- {name} failed: {sentence}" for name, sentence in failed.items())] * bool(failed)
    if lines := scaling_lines(series, loss):
        parts += ["## Scaling", "\n".join(f"- {line}" for line in lines)]
    parts += [f"![{picture.stem}]({picture.name})" for picture in pictures]
    path = folder / REPORT
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path
