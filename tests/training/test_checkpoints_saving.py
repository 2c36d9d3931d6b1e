"""A save ends in a complete checkpoint or in none, beside training; what the disk refuses costs that save alone."""

import os
import re
import resource
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tiny_trainer import TinyTrainer, tiny_trainer
from transformers import TrainerCallback

from hfgpt.errors import UserError
from hfgpt.model import GPTForCausalLM
from hfgpt.training.checkpoints import STAGING, obstacle, read_mark


def checkpoints(run: Path) -> list[str]:
    return sorted(path.name for path in run.glob("checkpoint-*"))


class AtStep(TrainerCallback):
    """Does something after the step, before its checkpoint is written, and something after that."""

    def __init__(self, step: int, before, after=lambda: None):
        self.step, self.before, self.after = step, before, after

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.before()

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            self.after()


def limit_file_size(num_bytes: int) -> None:
    """No file of this process can grow beyond: writing more fails as on a full disk, with another number."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))


@contextmanager
def files_stay_below(num_bytes: int):
    limit_file_size(num_bytes)
    try:
        yield
    finally:
        limit_file_size(resource.RLIM_INFINITY)


def test_every_checkpoint_is_complete_and_neither_it_nor_the_model_holds_a_pickle_of_objects(tmp_path):
    trainer = tiny_trainer(tmp_path, save_total_limit=0)
    trainer.train()
    trainer.save_model()
    assert checkpoints(tmp_path) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    for name in checkpoints(tmp_path):
        assert obstacle(tmp_path / name) is None
        mark = read_mark(tmp_path / name)
        assert mark is not None
        pieces = {"model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"}
        assert pieces < set(mark.files)
        assert {path.name for path in (tmp_path / name).iterdir()} == {*mark.files, "COMPLETE"}
    assert not list(tmp_path.rglob("training_args.bin"))
    assert GPTForCausalLM.from_pretrained(tmp_path / "checkpoint-4").config.vocab_size == 64


def test_hashes_are_made_beside_training_and_only_a_complete_checkpoint_is_passed_on(tmp_path):
    trainer = tiny_trainer(tmp_path, save_total_limit=1)
    seen = []

    def on_complete(folder: Path) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        seen.append((folder.name, obstacle(folder), is_main, checkpoints(tmp_path)))

    trainer.on_complete = on_complete
    trainer.train()
    assert seen == [
        ("checkpoint-2", None, False, ["checkpoint-2", STAGING]),
        ("checkpoint-4", None, False, ["checkpoint-2", "checkpoint-4", STAGING]),  # the older one still stands
        ("checkpoint-6", None, False, ["checkpoint-4", "checkpoint-6", STAGING]),
    ]
    assert checkpoints(tmp_path) == ["checkpoint-6"]


def test_a_schedule_by_the_loss_ends_its_run_though_hf_notes_a_best_checkpoint_for_it(tmp_path):
    keys = {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "steps", "eval_steps": 2}
    tiny_trainer(tmp_path, save_total_limit=1, **keys).train()
    assert checkpoints(tmp_path) == ["checkpoint-6"]


class AddsAFile(TinyTrainer):
    """Does what TRL's GRPOTrainer does: writes into the folder after the save."""

    def _save_checkpoint(self, model, trial):
        super()._save_checkpoint(model, trial)
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        (folder / "entropy_ctrl_state.json").write_text("{}")


def test_what_a_trainer_adds_after_the_save_is_part_of_the_checkpoint(tmp_path):
    tiny_trainer(tmp_path, max_steps=2, kind=AddsAFile).train()
    mark = read_mark(tmp_path / "checkpoint-2")
    assert mark is not None and "entropy_ctrl_state.json" in mark.files and obstacle(tmp_path / "checkpoint-2") is None


def test_until_it_is_complete_a_checkpoint_cannot_be_found(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=2)
    let_it_finish = threading.Event()
    trainer._finisher.submit(let_it_finish.wait)  # what it does comes after this
    found = []
    trainer.add_callback(AtStep(2, lambda: None, lambda: found.append(trainer.newest_checkpoint(print))))

    class Release(TrainerCallback):
        def on_epoch_end(self, args, state, control, **kwargs):
            found.append(trainer.newest_checkpoint(print))
            let_it_finish.set()

    trainer.add_callback(Release())
    trainer.train()
    assert found == [None, None]
    assert trainer.newest_checkpoint(print) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize("room", [100, 60_000, 150_000], ids=["not even a config", "no weights", "no optimizer state"])
def test_a_save_that_the_disk_refuses_costs_the_run_nothing_else(tmp_path, capsys, room):
    free = tiny_trainer(tmp_path / "free", save_total_limit=0)
    free.train()
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "free" / "checkpoint-4").iterdir()}
    assert 100 < sizes["config.json"] < sizes["modeling_gpt.py"] < 60_000
    assert 60_000 < sizes["model.safetensors"] < 150_000 < sizes["optimizer.pt"]
    trainer = tiny_trainer(tmp_path / "run", save_total_limit=1)

    def fill_the_disk() -> None:
        trainer.finish_checkpoint()  # that of step 2 still had room
        limit_file_size(room)

    limit = AtStep(4, fill_the_disk, lambda: limit_file_size(resource.RLIM_INFINITY))
    trainer.add_callback(limit)
    kept = []
    trainer.add_callback(AtStep(4, lambda: None, lambda: kept.append(trainer.newest_checkpoint(print))))
    try:
        trainer.train()
    finally:
        limit.after()
    printed = capsys.readouterr().out
    assert re.search(r"checkpoint-4 was not saved \(.+\)\. The run goes on; checkpoint-2 stays the newest\.", printed)
    assert kept == [tmp_path / "run" / "checkpoint-2"]
    assert checkpoints(tmp_path / "run") == ["checkpoint-6"]  # the next save worked, and no half of one is left
    first, second = (load_file(tmp_path / name / "checkpoint-6" / "model.safetensors") for name in ("free", "run"))
    assert all(first[name].equal(second[name]) for name in first)


def test_a_model_that_the_disk_refuses_is_the_users_to_mend(tmp_path):
    trainer = tiny_trainer(tmp_path, max_steps=2)
    trainer.train()
    with (
        files_stay_below(20_000),
        pytest.raises(UserError, match=f"could not be saved in {tmp_path} .File too large."),
    ):
        trainer.save_model()
    assert obstacle(tmp_path / "checkpoint-2") is None


def test_the_files_of_the_result_are_on_the_disk_when_it_is_said_to_be_saved(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        fsync(descriptor)
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())

    monkeypatch.setattr(os, "fsync", noted)
    tiny_trainer(tmp_path).save_model()
    assert {tmp_path / "model.safetensors", tmp_path / "config.json", tmp_path} <= set(synced)


def test_what_a_killed_save_left_is_removed_by_the_next(tmp_path):
    left = tmp_path / STAGING / "checkpoint-1"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    tiny_trainer(tmp_path, max_steps=2).train()
    assert checkpoints(tmp_path) == ["checkpoint-2"]


def test_the_seconds_and_bytes_of_a_save_are_said(tmp_path, capsys):
    trainer = tiny_trainer(tmp_path, max_steps=4)
    trainer.train()
    save, mark = trainer.last_save, read_mark(tmp_path / "checkpoint-4")
    assert save is not None and mark is not None
    assert save.step == 4 and save.num_bytes == mark.num_bytes and 0 < save.seconds < 60
    assert f"step 4/4 | checkpoint of {save.num_bytes / 2**20:.1f} MiB written in" in capsys.readouterr().out
