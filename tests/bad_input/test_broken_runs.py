"""The folder of a run whose checkpoints, records or prepared rows were harmed: what goes on from it names the culprit,
and no checkpoint that is damaged is used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import cut, edit, flip, swap_letters

CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    "no mark": lambda folder: (folder / "COMPLETE").unlink(),
    "half of the mark": lambda folder: cut(folder / "COMPLETE"),
    "a mark that is a list": lambda folder: (folder / "COMPLETE").write_text("[]"),
    "a mark of no files": lambda folder: (folder / "COMPLETE").write_text('{"files": 3}'),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no optimizer": lambda folder: (folder / "optimizer.pt").unlink(),
    "no scheduler": lambda folder: (folder / "scheduler.pt").unlink(),
    "no random state": lambda folder: (folder / "rng_state.pth").unlink(),
    "no trainer state": lambda folder: (folder / "trainer_state.json").unlink(),
    "half of the weights": lambda folder: cut(folder / "model.safetensors"),
    "half of the optimizer": lambda folder: cut(folder / "optimizer.pt"),
    "a flipped bit in the weights": lambda folder: flip(folder / "model.safetensors"),
    "a flipped bit in the optimizer": lambda folder: flip(folder / "optimizer.pt"),
    "a flipped bit in the trainer state": lambda folder: flip(folder / "trainer_state.json"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_damaged_checkpoint_that_is_named_is_refused(refused, run_folder, case):
    (run_folder / "pretrain" / "final_metrics.json").unlink()
    CHECKPOINTS[case](run_folder / "pretrain" / "checkpoint-1")
    words = "pretrain small.yaml --resume_from_checkpoint runs/small/pretrain/checkpoint-1"
    refused(words, "resume_from_checkpoint", "checkpoint-1")


def test_a_folder_that_is_no_checkpoint_is_refused(refused, run_folder):
    (run_folder / "pretrain" / "final_metrics.json").unlink()
    for path in (run_folder / "pretrain").glob("checkpoint-*"):
        shutil.rmtree(path)
    refused("pretrain small.yaml --resume_from_checkpoint .", "resume_from_checkpoint")
    refused("pretrain small.yaml --resume_from_checkpoint small.yaml", "resume_from_checkpoint", "small.yaml")


STAGES: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "another batch": (lambda stage: None, "--total_batch_size 512", ("tokens_per_step", "--overwrite")),
    "another rate": (lambda stage: None, "--learning_rate 0.5", ("learning_rate", "--overwrite")),
    "another shape": (lambda stage: None, "--hidden_size 48", ("architecture", "--overwrite")),
    "half of identity.json": (lambda stage: cut(stage / "identity.json"), "", ("identity.json",)),
    "identity.json that is a list": (lambda stage: (stage / "identity.json").write_text("[]"), "", ("identity.json",)),
    "a broken line in metrics.jsonl": (
        lambda stage: (stage / "metrics.jsonl").write_text('{"step": 1, "loss"\n{"step": 1}\n'),
        "",
        ("metrics.jsonl", "line 1"),
    ),
    "a record without a step": (
        lambda stage: (stage / "metrics.jsonl").write_text('{"loss": 1.0}\n'),
        "",
        ("metrics.jsonl", "line 1", "step"),
    ),
    "a file in place of the stage": (
        lambda stage: (shutil.rmtree(stage), stage.write_text("")),
        "",
        ("pretrain", "folder"),
    ),
}


@pytest.mark.parametrize("case", STAGES)
def test_a_stage_does_not_go_on_from_what_it_cannot_trust(refused, run_folder, case):
    breaks, flags, culprits = STAGES[case]
    (run_folder / "pretrain" / "final_metrics.json").unlink()
    breaks(run_folder / "pretrain")
    refused(f"pretrain small.yaml {flags}", *culprits)


def test_the_next_stage_does_not_start_from_one_that_is_not_complete(refused, run_folder):
    (run_folder / "pretrain" / "final_metrics.json").unlink()
    refused("midtrain small.yaml", "pretrain", "not complete")


PREPARED: dict[str, tuple[Callable[[Path], object], str, tuple[str, ...]]] = {
    "no prepared.json": (lambda rows: (rows / "prepared.json").unlink(), "", ("prepared.json",)),
    "half of prepared.json": (lambda rows: cut(rows / "prepared.json"), "", ("prepared.json",)),
    "prepared.json that is a list": (lambda rows: (rows / "prepared.json").write_text("[]"), "", ("prepared.json",)),
    "another version": (lambda rows: edit(rows / "prepared.json", lambda r: r.update(format_version=99)), "", ()),
    "no rows": (lambda rows: [path.unlink() for path in (rows / "train").glob("*.arrow")], "", ()),
    "half of the rows": (lambda rows: [cut(path) for path in (rows / "train").glob("*.arrow")], "", ()),
    "no state.json": (lambda rows: (rows / "train" / "state.json").unlink(), "", ()),
    "half of dataset_info.json": (lambda rows: cut(rows / "train" / "dataset_info.json"), "", ()),
    "another length": (lambda rows: None, "--max_length 32", ("data.max_length", "64", "32")),
    "another tokenizer": (lambda rows: None, "--name_or_path ./other", ("tokenizer",)),
    "a folder without rows": (lambda rows: shutil.rmtree(rows / "train"), "", ()),
}


@pytest.mark.parametrize("case", PREPARED)
def test_prepared_rows_that_were_harmed_are_refused(refused, here, pretrained, case):
    breaks, flags, culprits = PREPARED[case]
    (rows,) = (path.parent for path in (pretrained / "data").glob("*/prepared.json"))
    shutil.copytree(rows, here / "rows")
    breaks(here / "rows")
    if "other" in flags:
        shutil.copytree(pretrained / "tokenizer", here / "other")
        swap_letters(here / "other" / "tokenizer.json")
    words = f"pretrain small.yaml --prepared ./rows {flags}"
    assert "rows" in refused(words, *culprits)


REPORTS: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no metrics": (lambda stage: (stage / "metrics.jsonl").unlink(), ("metrics.jsonl",)),
    "empty metrics": (lambda stage: (stage / "metrics.jsonl").write_text(""), ("metrics.jsonl",)),
    "a broken line of metrics": (
        lambda stage: (stage / "metrics.jsonl").write_text('{"step": 1, "loss"\n{"step": 2}\n'),
        ("metrics.jsonl",),
    ),
    "metrics that are a list": (lambda stage: (stage / "metrics.jsonl").write_text("[1]\n"), ("metrics.jsonl",)),
    "a record without a step": (
        lambda stage: (stage / "metrics.jsonl").write_text('{"loss": 1}\n'),
        ("metrics.jsonl",),
    ),
    "half of final_metrics.json": (lambda stage: cut(stage / "final_metrics.json"), ("final_metrics.json",)),
    "half of identity.json": (lambda stage: cut(stage / "identity.json"), ("identity.json",)),
    "a broken recipe.yaml": (lambda stage: (stage / "recipe.yaml").write_text("model: ["), ("recipe.yaml",)),
    "a broken line of evals": (lambda stage: (stage / "evals.jsonl").write_text("{\n{}\n"), ("evals.jsonl",)),
    "a broken line of samples": (lambda stage: (stage / "samples.jsonl").write_text("{\n{}\n"), ("samples.jsonl",)),
}


READERS = [("report runs/small", case) for case in REPORTS]
READERS += [("compare runs/small runs/other", case) for case in REPORTS if "samples" not in case]  # which it reads not


@pytest.mark.parametrize(("command", "case"), READERS)
def test_a_report_names_the_record_that_is_broken(refused, run_folder, command, case):
    if command.startswith("compare"):
        shutil.copytree(run_folder / "pretrain", run_folder.with_name("other") / "pretrain")
    breaks, culprits = REPORTS[case]
    breaks(run_folder / "pretrain")
    refused(command, *culprits)


def test_leakage_names_rows_that_are_gone(refused, run_folder):
    shutil.rmtree(run_folder / "data")
    refused("leakage runs/small --tasks tinyworld_facts --num_proc 1", "data")


def test_a_sweep_does_not_pass_over_a_run_of_another_recipe(refused, run_folder):
    stage = run_folder.with_name("small-sweep") / "max_steps-2" / "pretrain"
    shutil.copytree(run_folder / "pretrain", stage)
    refused("sweep small.yaml --max_steps 2 3 --weight_decay 0.5", "max_steps-2", "weight_decay", "--overwrite")
    (stage / "recipe.yaml").write_text(json.dumps({"modell": {}}))
    refused("sweep small.yaml --max_steps 2 3", "recipe.yaml", "modell")
