"""The job that a process belongs to, under Slurm or a launcher that starts its processes again, and whether it was."""

import os
from pathlib import Path

from hfgpt.whole_files import write_whole

JOB_FILE = "job.txt"


def current_job() -> str | None:
    """A name that stays the same when the job is started again; None outside of jobs."""
    if job := os.environ.get("SLURM_JOB_ID"):
        return f"slurm {job}"
    run = os.environ.get("TORCHELASTIC_RUN_ID")
    if run != "none":
        return run and f"launcher {run}"
    if os.environ.get("GROUP_WORLD_SIZE") == "1":  # nobody chose a name, and all processes have one launcher
        return f"launcher {os.getppid()}"
    return f"launcher {os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"


def is_begun_by_this_job(folder: Path) -> bool:
    """Whether this job has run before, put back into its queue by Slurm or started again by its launcher, and began
    the run in the stage's `folder`."""
    counts = (os.environ.get(name, "0") for name in ("SLURM_RESTART_COUNT", "TORCHELASTIC_RESTART_COUNT"))
    if all(count in ("", "0") for count in counts) or not (folder / JOB_FILE).is_file():
        return False
    return (folder / JOB_FILE).read_text(encoding="utf-8") == current_job()


def note_job(folder: Path) -> None:
    """Leave the job's name in the folder of the stage that it begins, or goes on with."""
    if job := current_job():
        write_whole(folder / JOB_FILE, job)
    else:
        (folder / JOB_FILE).unlink(missing_ok=True)
