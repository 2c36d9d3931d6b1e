"""`hfgpt report RUN`: the report card of a run as Markdown and as one HTML page, and a model card for each stage."""

import math
from pathlib import Path

from hfgpt.chat.arguments import parser
from hfgpt.errors import UserError


def main(argv: list[str]) -> None:
    """Write report/report.md, report/report.html and each complete stage's README.md."""
    flags = parser("hfgpt report", __doc__ or "")
    flags.add_argument("run", metavar="RUN", type=Path, help="a run's folder, as runs/tiny")
    flags.add_argument("--price", type=float, metavar="DOLLARS", help="of an hour of one accelerator; no cost without")
    flags.add_argument(
        "--num_gpus", type=int, default=1, metavar="N", help="accelerators that trained it (default: 1)"
    )
    given = flags.parse_args(argv)
    if given.price is not None and not 0 <= given.price < math.inf:
        raise UserError(f"--price {given.price:g} must be 0 or more, and finite.")
    if given.num_gpus < 1:
        raise UserError(f"--num_gpus {given.num_gpus} must be 1 or more.")
    report(given.run, given.price, given.num_gpus)


def report(run_folder: Path, price: float | None = None, num_gpus: int = 1) -> None:
    """Write everything and say where it lies."""
    from hfgpt.report.model_card import write_model_cards
    from hfgpt.report.report_card import write_report
    from hfgpt.report.timeline import open_timeline

    page = write_report(run_folder, price=price, num_gpus=num_gpus)
    cards = write_model_cards(open_timeline(run_folder))
    print(f"report card in {page}" + (f", model cards of {len(cards)} stage(s) beside the models" if cards else ""))
