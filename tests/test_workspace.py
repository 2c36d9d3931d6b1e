"""Who may start in a stage's folder, and what --overwrite removes there: nothing of what the same job has begun."""

import subprocess
import sys

import pytest
from commands import REPOSITORY

from hfgpt.errors import UserError
from hfgpt.recipe import Recipe, load_recipe
from hfgpt.stage_lock import LOCK_FILE, let_go
from hfgpt.workspace import begins_anew, note_start, prepare_start

IDENTITY = {"seed": 1}
OF_A_JOB = (
    *("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"),
    "GROUP_WORLD_SIZE",
)


@pytest.fixture(autouse=True)
def outside_of_jobs(monkeypatch):
    for name in OF_A_JOB:
        monkeypatch.delenv(name, raising=False)
    yield
    let_go()


def recipe(*flags: str) -> Recipe:
    return load_recipe([str(REPOSITORY / "recipes" / "tiny.yaml"), *flags])


SLURM = {"SLURM_JOB_ID": "77"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "GROUP_WORLD_SIZE": "1"}


@pytest.mark.parametrize(
    ("began", "now", "goes_on"),
    [
        ({**SLURM}, {**SLURM, "SLURM_RESTART_COUNT": "1"}, True),
        ({**SLURM}, {"SLURM_JOB_ID": "78", "SLURM_RESTART_COUNT": "1"}, False),  # whose own stage this is not
        ({**SLURM}, {**SLURM}, False),  # given twice in one job
        ({}, {**SLURM, "SLURM_RESTART_COUNT": "2"}, False),
        ({}, {}, False),
        ({**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "0"}, {**TORCHRUN, "TORCHELASTIC_RESTART_COUNT": "1"}, True),
    ],
)
def test_overwrite_removes_the_checkpoints_but_of_a_job_that_was_started_again(
    tmp_path, monkeypatch, began, now, goes_on
):
    stage, anew = tmp_path / "stage", recipe("--overwrite")
    for environment, is_first in ((began, True), (now, False)):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        if not is_first:
            assert begins_anew(stage, anew) == (not goes_on)
        prepare_start(stage, anew, IDENTITY)
        if is_first:
            note_start(stage, anew, IDENTITY)
            (stage / "checkpoint-5").mkdir()
    assert (stage / "checkpoint-5").exists() == (stage / "identity.json").exists() == goes_on
    assert not begins_anew(stage, recipe())


HOLDER = """
import sys, time
from pathlib import Path
from hfgpt.stage_lock import hold
hold(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


def test_a_second_command_is_refused_before_it_removes_anything_and_a_killed_one_is_in_nobodys_way(tmp_path):
    stage, anew = tmp_path / "stage", recipe("--overwrite")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(stage)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        (stage / "checkpoint-5").mkdir()
        with pytest.raises(UserError, match=f"another process trains in {stage}: wait"):
            prepare_start(stage, anew, IDENTITY)
        assert sorted(path.name for path in stage.iterdir()) == ["checkpoint-5", LOCK_FILE]
    finally:
        holder.kill()
        holder.communicate()
    prepare_start(stage, anew, IDENTITY)
    assert not (stage / "checkpoint-5").exists()
