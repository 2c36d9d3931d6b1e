"""`hfgpt compare RUN RUN ...`: runs side by side, printed, as Markdown and as a picture, and in trackio's page."""

import os
from pathlib import Path

from hfgpt.chat.arguments import parser
from hfgpt.errors import UserError
from hfgpt.recipe import STAGES
from hfgpt.report.comparison import comparison_report, open_runs
from hfgpt.report.comparison_page import log_comparison
from hfgpt.report.comparison_plot import plot_comparison

PICTURE = "comparison.png"
PROJECT = "hfgpt-compare"


def main(argv: list[str]) -> None:
    """Compare the runs that `argv` names; the first is what the others are measured by."""
    flags = parser("hfgpt compare", __doc__ or "")
    flags.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="a run's folder, or the folder of one stage")
    flags.add_argument("--stage", choices=STAGES, help="stage to compare (default: the first that all runs have)")
    flags.add_argument(
        "--output",
        type=Path,
        metavar="F.png",
        help=f"picture, with F.md beside it (default: {PICTURE} beside the runs)",
    )
    flags.add_argument(
        "--trackio", nargs="?", const=PROJECT, metavar="PROJECT", help=f"log to trackio too (default: {PROJECT})"
    )
    given = flags.parse_args(argv)
    picture = given.output or _beside(given.runs) / PICTURE
    if picture.suffix != ".png":
        raise UserError(f"--output {picture} must end in .png; the table goes into an .md beside it.")
    runs = open_runs(given.runs, given.stage)
    picture.parent.mkdir(parents=True, exist_ok=True)
    plot_comparison(runs, picture)
    report = comparison_report(runs, picture.name)
    table = picture.with_suffix(".md")
    table.write_text(report, encoding="utf-8")
    print(comparison_report(runs))
    print(f"table in {table}\nplot  in {picture}")
    if given.trackio:
        log_comparison(runs, given.trackio, picture)
        print(f"page: trackio show --project {given.trackio}   (x axis: tokens, flops or hours)")


def _beside(paths: list[Path]) -> Path:
    """The folder that holds all of the runs."""
    return Path(os.path.commonpath([path.resolve().parent for path in paths]))
