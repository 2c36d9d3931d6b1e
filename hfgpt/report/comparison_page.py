"""A comparison in trackio: every run's curves over steps, tokens, FLOPs or hours, its recipe, and the report."""

from pathlib import Path

from hfgpt.errors import UserError
from hfgpt.report.comparison import ComparedRun, comparison_tables, how_soon

CURVES = ("loss", "val_loss", "val_bits_per_byte", "learning_rate", "grad_norm", "tokens_per_second", "mfu", "reward")
REPORT_RUN = "comparison"
MADE_BY = {"made_by": "hfgpt compare"}  # in the config of each run that may be replaced


def log_comparison(runs: list[ComparedRun], project: str, picture: Path) -> None:
    """Log the runs and their report into `project` of the local trackio, in place of what an earlier comparison logged
    there under the same names. Raises UserError where trackio is not installed, or refuses the project's name."""
    try:
        import trackio
    except ImportError:
        raise UserError("--trackio needs trackio: pip install hfgpt[track].") from None

    def begin(name: str, config: dict) -> None:
        try:
            trackio.init(
                project, name=name, config=config | MADE_BY, embed=False, auto_log_cpu=False, auto_log_gpu=False
            )
        except ValueError as error:
            raise UserError(f"--trackio {project}: {error}") from None

    try:
        earlier = list(trackio.Api().runs(project))
    except ValueError:  # a new project
        earlier = []
    names = {REPORT_RUN, *(run.name for run in runs)}
    for run in earlier:
        if run.name in names and MADE_BY.items() <= (run.config or {}).items():
            run.delete()
    for compared in runs:
        begin(compared.name, {key: str(value) for key, value in (compared.derived | compared.recipe).items()})
        for record in compared.records:
            curves = {name: record[name] for name in CURVES if name in record}
            where = {"tokens": record["tokens"], "flops": record["flops"], "hours": record["seconds"] / 3600}
            trackio.log(curves | where, step=record["step"])
        trackio.finish()
    begin(REPORT_RUN, {})
    tables = {  # of their own, because the page's Markdown has none
        table.title: trackio.Table(columns=table.header, data=table.rows) for table in comparison_tables(runs)
    }
    report = trackio.Markdown("\n".join(f"- {line}" for line in how_soon(runs)))
    axes = {"tokens": 0, "flops": 0, "hours": 0.0}  # the page fails where a run lacks the column on its x axis
    trackio.log({"comparison": trackio.Image(str(picture)), "report": report, **tables, **axes}, step=0)
    trackio.finish()
