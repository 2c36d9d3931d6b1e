"""Whatever happened to a run's checkpoints, it goes on from the newest that is whole, and takes nothing else."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import load_file, save_file
from tiny_trainer import tiny_trainer
from torch import distributed

from hfgpt.errors import UserError
from hfgpt.training.checkpoints import mark_complete
from hfgpt.training.numbers_only import numbers_only


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of 6 steps with all its checkpoints: 2, 4 and 6."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    trainer = tiny_trainer(folder, save_total_limit=0)
    trainer.train()
    trainer.save_model()
    return folder


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def go_on(run: Path, **arguments) -> tuple[str, list[str]]:
    """Resume and train to the end; returns the name of the checkpoint and what was said."""
    said: list[str] = []
    trainer = tiny_trainer(run, save_total_limit=0, **arguments)
    folder = trainer.checkpoint_to_resume(said.append)
    trainer.train(resume_from_checkpoint=str(folder) if folder else None)
    trainer.save_model()
    return folder.name if folder else "", said


def remove_a_piece(folder: Path) -> None:
    (folder / "rng_state.pth").unlink()


def cut_a_file(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def flip_a_bit(folder: Path) -> None:
    path = folder / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def remove_the_mark(folder: Path) -> None:
    (folder / "COMPLETE").unlink()


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (remove_a_piece, "is incomplete (rng_state.pth)"),
        (cut_a_file, "is incomplete (model.safetensors)"),
        (flip_a_bit, "is damaged (optimizer.pt)"),
        (remove_the_mark, "is incomplete (COMPLETE)"),
    ],
)
def test_a_harmed_checkpoint_is_named_and_the_run_ends_as_if_it_had_not_been(
    run, whole, harm: Callable[[Path], None], named
):
    harm(run / "checkpoint-6")
    harm(run / "checkpoint-4")
    name, said = go_on(run)
    assert name == "checkpoint-2"
    assert said == [
        f"{run / 'checkpoint-6'} {named} and is not used.",
        f"{run / 'checkpoint-4'} {named} and is not used.",
        f"going on from {run / 'checkpoint-2'}",
    ]
    first, second = load_file(whole / "model.safetensors"), load_file(run / "model.safetensors")
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_damaged_one_that_a_run_passed_over_costs_it_no_good_one(run):
    flip_a_bit(run / "checkpoint-6")
    trainer = tiny_trainer(run, save_total_limit=1, max_steps=5)
    trainer.train(resume_from_checkpoint=str(trainer.checkpoint_to_resume(print)))
    assert trainer.newest == trainer.newest_checkpoint(print) == run / "checkpoint-5"
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]


def test_a_run_that_was_stopped_at_its_last_step_trains_no_step_more(run, whole):
    name, _ = go_on(run)  # 8 steps are an epoch: there are rows to train on
    assert name == "checkpoint-6"
    first, second = load_file(whole / "model.safetensors"), load_file(run / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]


def test_without_a_whole_checkpoint_a_run_begins_anew(run):
    for step in (2, 4, 6):
        remove_the_mark(run / f"checkpoint-{step}")
    name, said = go_on(run)
    assert name == "" and len(said) == 3


def test_weights_alone_are_never_gone_on_from(tmp_path):
    tiny_trainer(tmp_path / "run", save_total_limit=1, save_weights_total_limit=1).train()
    run = tmp_path / "run"
    assert sorted(path.name for path in run.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-6"]
    flip_a_bit(run / "checkpoint-6")
    said: list[str] = []
    assert tiny_trainer(run).checkpoint_to_resume(said.append) is None
    assert "checkpoint-6 is damaged (optimizer.pt)" in said[0] and "checkpoint-4 holds the weights alone" in said[1]
    with pytest.raises(UserError, match="checkpoint-4 is not a complete checkpoint, it holds the weights alone"):
        tiny_trainer(run, resume_from_checkpoint=str(run / "checkpoint-4")).checkpoint_to_resume(print)


def test_the_checkpoint_that_is_named_is_taken_where_nothing_newer_would_be_lost(run, tmp_path):
    older = str(run / "checkpoint-2")
    with pytest.raises(UserError, match="checkpoint-4, checkpoint-6 beside .*: remove what is newer"):
        go_on(run, resume_from_checkpoint=older)
    other = tmp_path / "other"
    assert go_on(other, resume_from_checkpoint=older)[0] == "checkpoint-2"
    shutil.rmtree(other / "checkpoint-6")
    name, said = go_on(other, resume_from_checkpoint=older)  # the same command after an interruption
    assert name == "checkpoint-4" and "checkpoints of its own by now" in said[0]
    flip_a_bit(run / "checkpoint-6")
    with pytest.raises(UserError, match=r"checkpoint-6 is not a complete checkpoint, it is damaged \(optimizer.pt\)"):
        go_on(tmp_path / "third", resume_from_checkpoint=str(run / "checkpoint-6"))


class Payload:
    """What a foreign optimizer.pt might hold: reading it as a pickle makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_no_object_in_a_foreign_checkpoint_is_brought_to_life(run, tmp_path, name):
    made = tmp_path / "made-by-the-payload"
    torch.save({"state": Payload(made)}, run / "checkpoint-6" / name)
    mark_complete(run / "checkpoint-6")
    with pytest.raises(UserError, match="checkpoint-6: its training state holds objects"):
        go_on(run, max_steps=8)
    assert not made.exists()
    with (run / "checkpoint-6" / name).open("rb") as file:
        torch.load(file, weights_only=False)
    assert made.exists()  # it would have worked


def test_a_foreign_scaler_of_float16_is_refused_and_without_float16_not_read(run, tmp_path):
    made = tmp_path / "made-by-the-payload"
    torch.save({"scale": Payload(made)}, run / "checkpoint-6" / "scaler.pt")
    mark_complete(run / "checkpoint-6")
    trainer = tiny_trainer(run)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    with pytest.raises(UserError, match="checkpoint-6: its training state holds objects"):
        trainer.train(resume_from_checkpoint=str(run / "checkpoint-6"))
    go_on(run)
    assert not made.exists()


def test_an_index_of_shards_is_read_and_a_foreign_object_in_it_is_not(tmp_path):
    shards = tmp_path / "pytorch_model_fsdp_0"
    values = {
        "weight": torch.ones(3, 4, dtype=torch.bfloat16),
        "step": torch.tensor(7),
        "betas": (0.9, 0.95),
        "lr": 0.1,
    }
    distributed.checkpoint.save({"model": values}, checkpoint_id=shards)
    read = {name: torch.zeros_like(v) if isinstance(v, torch.Tensor) else None for name, v in values.items()}
    with numbers_only(str(tmp_path)):
        distributed.checkpoint.load({"model": read}, checkpoint_id=shards)
    assert read["weight"].equal(values["weight"]) and int(read["step"]) == 7
    made = tmp_path / "made-by-the-payload"
    index = (shards / ".metadata").read_bytes()
    (shards / ".metadata").write_bytes(pickle.dumps([Payload(made), index]))
    with pytest.raises(UserError, match="holds objects"), numbers_only(str(tmp_path)):
        distributed.checkpoint.load({"model": read}, checkpoint_id=shards)
    assert not made.exists()


def test_a_foreign_object_among_the_values_of_shards_is_not_read(tmp_path):
    made = tmp_path / "made-by-the-payload"
    distributed.checkpoint.save({"value": Payload(made)}, checkpoint_id=tmp_path / "optimizer_0")
    with pytest.raises(UserError, match="holds objects"), numbers_only(str(tmp_path)):
        distributed.checkpoint.load({"value": None}, checkpoint_id=tmp_path / "optimizer_0")
    assert not made.exists()
    distributed.checkpoint.load({"value": None}, checkpoint_id=tmp_path / "optimizer_0")
    assert made.exists()  # it would have worked


def test_weights_that_lack_a_tensor_are_not_filled_up_with_random_ones(run):
    path = run / "checkpoint-6" / "model.safetensors"
    weights = load_file(path)
    lost = next(name for name in weights if name.endswith("q_proj.weight"))
    del weights[lost]
    save_file(weights, path, metadata={"format": "pt"})
    mark_complete(run / "checkpoint-6")
    with pytest.raises(UserError, match=f"another model's: {lost}"):
        go_on(run, max_steps=8)


def test_a_tied_head_is_no_missing_tensor(tmp_path):
    for name, steps in (("whole", 6), ("in two", 4), ("in two", 6)):
        trainer = tiny_trainer(tmp_path / name, max_steps=steps, tied=True)
        folder = trainer.checkpoint_to_resume(print)
        trainer.train(resume_from_checkpoint=str(folder) if folder else None)
        trainer.save_model()
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "in two"))
    assert "lm_head.weight" not in first and all(torch.equal(first[name], second[name]) for name in first)


def test_a_galore_run_goes_on_with_its_projections(tmp_path):
    galore = {"optim": "galore_adamw", "optim_target_modules": ["self_attn", "mlp"], "optim_args": "rank=4"}
    tiny_trainer(tmp_path, max_steps=4, **galore).train()
    with pytest.raises(pickle.UnpicklingError):  # numbers alone are not all that its state holds
        torch.load(tmp_path / "checkpoint-4" / "optimizer.pt", weights_only=True)
    trainer = tiny_trainer(tmp_path, max_steps=6, **galore)
    trainer.train(resume_from_checkpoint=str(trainer.checkpoint_to_resume(print)))
    assert trainer.state.global_step == 6
