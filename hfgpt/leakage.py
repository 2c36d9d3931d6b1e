"""`hfgpt leakage RUN`: which questions of the evaluation tasks stand in what the run trained on."""

from pathlib import Path

from hfgpt.chat.arguments import parser
from hfgpt.report.tables import markdown_table


def main(argv: list[str]) -> None:
    """Count overlapping questions, print them per task and write the run's report/leakage.json."""
    flags = parser("hfgpt leakage", __doc__ or "")
    flags.add_argument("run", metavar="RUN", type=Path, help="a run's folder, as runs/tiny")
    flags.add_argument("--tasks", nargs="+", metavar="TASK", help="lm-eval tasks (default: eval_tasks of its recipe)")
    flags.add_argument("--core_bundle", metavar="DIR", help="CORE's questions: folder or zip (default: downloaded)")
    flags.add_argument("--num_proc", type=int, default=0, metavar="N", help="processes (default: every core)")
    given = flags.parse_args(argv)
    from hfgpt.evals.leakage import measure_leakage, write_leakage

    measured = measure_leakage(given.run, given.tasks, core_bundle=given.core_bundle, num_proc=given.num_proc)
    path = write_leakage(given.run, measured)
    read = ", ".join(f"{stage} {words:,}" for stage, words in measured["words"].items())
    print(f"words read: {read}\noverlap: {measured['rule']}\n")
    rows = [
        [task, f"{found['questions']:,}", f"{found['overlapping']:,}", *(f"{n:,}" for n in found["stages"].values())]
        for task, found in measured["tasks"].items()
    ]
    print(markdown_table(["task", "questions", "overlapping", *measured["words"]], rows))
    print(f"\nexamples in {path}")
