"""The memory that `hfgpt plan` foretells for a CPU beside what a process really holds at its peak.

    python benchmarks/plan_memory.py

The cases are those of tests/training/test_memory.py, each in a fresh process, three times: with a C library that gives
back what is freed, as it is by default, and told to keep what is freed, as a stage tells it. Writes
benchmarks/plan_memory.md.
"""

import sys
from pathlib import Path

from machine import describe_machine

TESTS = Path(__file__).resolve().parents[1] / "tests" / "training"
sys.path.insert(0, str(TESTS))
from test_memory import DEFAULTS, GIVES_BACK, RUNS, foretold, measured  # noqa: E402

REPORT = Path(__file__).with_suffix(".md")
MIB = 2**20


def compare(name: str) -> str:
    case = DEFAULTS | RUNS[name]
    expected = foretold(case, on_gpu=False, bf16=False)
    ways = [measured(case, **GIVES_BACK), measured(case), measured(case | {"keep_freed_memory": True})]
    cells = [f"{held / MIB:,.0f} | {held / expected:.2f}" for held in ways]
    line = f"| {name} | {expected / MIB:,.0f} | {' | '.join(cells)} |"
    print(line, flush=True)
    return line


def main() -> None:
    header = (
        "| run | plan, MiB | freed is given back, MiB | of the plan | by default, MiB | of the plan | "
        "as a stage, MiB | of the plan |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    table = "\n".join([header, *(compare(name) for name in RUNS)])
    REPORT.write_text(
        f"""# The plan's memory and a process's

`python benchmarks/plan_memory.py`: growth of the resident memory of a fresh process that trains three steps, above
what its libraries take. The plan counts what tensors take, which a process holds where the C library gives back what
is freed (`MALLOC_MMAP_THRESHOLD_=65536`); by default it keeps some, and as a stage trains all of it (docs/speed.md).

{table}

{describe_machine()}
""",
        encoding="utf-8",
    )


if __name__ == "__main__":
    main()
