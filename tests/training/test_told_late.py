"""A run that is told to end before its first step, by the death of its launcher, or when nothing is left to train: the
stage is then finished, and nothing begins after it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from guarded_run import StepRows, guarded_trainer
from transformers import TrainerCallback

from hfgpt.recipe import load_recipe
from hfgpt.stage import train, where_it_stopped
from hfgpt.workspace import Workspace


def tell() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class ToldAtTheEnd(TrainerCallback):
    def on_train_end(self, args, state, control, **kwargs):
        tell()


@pytest.mark.parametrize("when", ["after the last step", "while it is finished", "never"])
def test_a_signal_after_the_last_step_ends_the_process_once_the_stage_is_finished(tmp_path, capfd, when):
    trainer, finished = guarded_trainer(tmp_path, StepRows(2), max_steps=2), tmp_path / "finished"
    if when == "after the last step":
        trainer.add_callback(ToldAtTheEnd())

    def finish() -> None:
        assert (tmp_path / "model.safetensors").is_file()
        if when == "while it is finished":
            tell()
        finished.touch()

    folders = Workspace(tmp_path, tmp_path, Path(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    if when == "never":
        train(load_recipe(["tiny"]), trainer, trainer.args, folders, print, finish)
        assert "stopped by" not in capfd.readouterr().err
    else:
        with pytest.raises(SystemExit) as left:
            train(load_recipe(["tiny"]), trainer, trainer.args, folders, print, finish)
        assert left.value.code == 75
        assert f"{tmp_path} is complete; stopped by SIGTERM" in capfd.readouterr().err
    assert finished.exists() and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("overwrites", "words"),
    [
        (False, "stopped after step 7 by SIGTERM: the same command goes on from run/checkpoint-5, 2 steps back."),
        (True, "the same command without --overwrite goes on from run/checkpoint-5"),
    ],
)
def test_a_run_that_removed_an_earlier_one_is_not_advised_to_do_so_again(overwrites, words):
    assert words in where_it_stopped(Path("run/checkpoint-5"), "SIGTERM", 7, overwrites)


CHILD = """
import os, time
from hfgpt.training.preemption import StopRequest
launcher = os.getppid()
print("imported", flush=True)
while os.getppid() == launcher:
    time.sleep(0.05)
request = StopRequest(speaks=True)
print(request.is_made, request.cause, flush=True)
"""


def test_a_launcher_that_died_before_training_began_is_missed():
    words = ["sh", "-c", '"$0" -c "$1" & wait', sys.executable, CHILD]
    environment = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    launcher = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)
    assert launcher.stdout is not None and launcher.stdout.readline() == "imported\n"
    launcher.kill()
    assert launcher.stdout.read() == "True the end of its launcher\n"
    launcher.wait()
