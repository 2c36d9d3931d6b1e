"""`hfgpt sweep`: a grid of real runs that share what they can, is gone on with, and outlives a run that fails."""

import csv
import json
import shutil

import pytest
from commands import run, succeed

from hfgpt.cli import main
from hfgpt.recipe import split_flags
from hfgpt.sweep import _last_sentence
from hfgpt.sweep_grid import plan_runs, split_grid
from hfgpt.training.record import read_records

SMALL = """\
model: {depth: 1, hidden_size: 64}
tokenizer: {vocab_size: 300}
data: {dataset: tinyworld, tinyworld_documents: 300, max_length: 64, validation_fraction: 0.05, num_proc: 1}
pretrain: {max_steps: 4, total_batch_size: 256, per_device_train_batch_size: 4, sample_steps: 0, eval_steps: 2,
  logging_steps: 2, warmup_steps: 1}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(SMALL)
    return path


def planned(recipe, tmp_path, *words: str):
    fixed, swept = split_grid(split_flags(list(words)))
    return plan_runs(str(recipe), fixed, swept, tmp_path, num_processes=1)


def test_every_combination_is_a_run_with_its_own_plan(recipe, tmp_path):
    runs = planned(recipe, tmp_path, "--depth", "1", "2", "--max_steps", "2", "8", "--learning_rate", "0.01")
    assert [one.name for one in runs] == [f"depth-{d}_max_steps-{s}" for d in (1, 2) for s in (2, 8)]
    assert [one.settings for one in runs][1] == {"depth": 1, "max_steps": 8}
    assert [one.plan.total_tokens for one in runs] == [512, 2048, 512, 2048]
    assert runs[2].plan.parameters.total > runs[0].plan.parameters.total
    assert runs[0].words[-2:] == ["--max_steps", "2"] and "0.01" in runs[0].words


def test_a_key_that_is_a_list_is_swept_only_by_values_in_brackets(recipe, tmp_path):
    words = ("--depth", "1", "2", "--sample_prompts", "Once", "The")
    assert [one.settings for one in planned(recipe, tmp_path, *words)] == [{"depth": 1}, {"depth": 2}]
    (first, second) = planned(recipe, tmp_path, "--data_path", "[a/b.txt]", "[a_b.txt, c.txt]")
    assert second.settings == {"data_path": ["a_b.txt", "c.txt"]}
    assert first.name != second.name and "/" not in first.name


def test_a_run_with_another_token_is_the_same_run(recipe, tmp_path):
    for token in ("hf_one", "hf_two"):
        (one, _) = planned(recipe, tmp_path, "--depth", "1", "2", "--hub_token", token)
        one.folder.mkdir(parents=True, exist_ok=True)
        (one.folder / "recipe.yaml").write_text(one.recipe.as_text())
        assert one.changed() is None


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--depth", "2"), "needs a key with several values"),
        (("--depth", "1", "two"), "flag --depth (model.depth) must be a whole number"),
        (("--depht", "1", "2"), "the nearest is --depth"),
        (("--depth", "2", "2"), "depth 2 stands twice in the sweep"),
        (("--depth", "1", "2", "--output_dir", "here"), "write --output_root or --name"),
        (("--depth", "1", "2", "--total_batch_size", "255"), "the nearest possible: 256"),
        (("--depth", "1", "2", "--accelerate_config", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (("--depth", "1", "2", "--accelerate_config", "EMPTY"), "is no config of accelerate's"),
        (("--depth", "1", "2", "--accelerate_config", "BROKEN"), "is no config of accelerate's"),
        (("--depth", "1", "2", "--dry_run", "perhaps"), "--dry_run must be true or false"),
    ],
)
def test_a_mistake_is_said_before_anything_runs(recipe, tmp_path, capsys, flags, words):
    for name, text in {"EMPTY": "", "BROKEN": "num_processes: [1\n"}.items():
        (tmp_path / name).write_text(text)
    flags = tuple(str(tmp_path / flag) if flag in ("EMPTY", "BROKEN") else flag for flag in flags)
    assert main(["sweep", str(recipe), "--output_root", str(tmp_path / "runs"), *flags]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_says_what_the_runs_cost_and_makes_nothing(recipe, tmp_path, capsys):
    words = ("--depth", "1", "2", "--target_flops", "1e9", "1e10", "--output_root", str(tmp_path / "runs"))
    assert main(["sweep", str(recipe), *words, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "depth-2_target_flops-1e10" in printed and "4 runs, 2." in printed and "e+10 FLOPs" in printed
    assert not (tmp_path / "runs").exists()


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    """A sweep over tokenizers and lengths, once: (its folder, the words of its command)."""
    root = tmp_path_factory.mktemp("runs")
    words = ("hfgpt", "sweep", str(recipe), "--vocab_size", "300", "340", "--max_steps", "2", "4")
    words += ("--output_root", str(root))
    succeed(*words)
    return root / "small-sweep", words


@pytest.mark.slow
def test_runs_share_tokenizers_and_rows_and_make_a_table(finished):
    folder, _ = finished
    assert len(list(folder.glob("shared/*/small/tokenizer/tokenizer.json"))) == 2
    assert len(list(folder.glob("shared/*/small/data/*/prepared.json"))) == 2  # of four runs
    assert not list(folder.glob("vocab*/tokenizer")) and not list(folder.glob("vocab*/data"))
    with (folder / "sweep.csv").open() as file:
        rows = {row["run"]: row for row in csv.DictReader(file)}
    assert set(rows) == {f"vocab_size-{size}_max_steps-{steps}" for size in (300, 340) for steps in (2, 4)}
    for name, row in rows.items():
        last = [r for r in read_records(folder / name / "pretrain" / "metrics.jsonl") if "val_bits_per_byte" in r][-1]
        assert float(row["val_bits_per_byte"]) == last["val_bits_per_byte"]
        assert int(row["tokens"]) == last["tokens"] == 256 * int(row["max_steps"])
        assert float(row["flops"]) == last["flops"]
    report = (folder / "sweep.md").read_text()
    assert report.count("| vocab_size-") == 4 and "no fit of loss over FLOPs" in report
    assert (folder / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((folder / "sweep.json").read_text())["failed"] == {}


@pytest.mark.slow
def test_the_same_command_passes_over_what_is_complete(finished, capsys):
    folder, words = finished
    before = {path: path.stat().st_mtime_ns for path in folder.glob("vocab*/pretrain/metrics.jsonl")}
    assert main([*words[1:]]) == 0
    assert capsys.readouterr().out.count("complete, passed over") == 4
    assert {path: path.stat().st_mtime_ns for path in folder.glob("vocab*/pretrain/metrics.jsonl")} == before


@pytest.mark.slow
def test_a_complete_run_of_other_settings_is_not_taken_for_this_one(finished, capsys):
    _, words = finished
    assert main([*words[1:], "--hidden_size", "128"]) == 2
    sentence = capsys.readouterr().err
    assert "was run with model.hidden_size 64, not 128" in sentence and "--overwrite" in sentence


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(recipe, tmp_path):
    words = ("hfgpt", "sweep", recipe, "--max_steps", "6", "8", "--save_steps", "2", "--output_root", tmp_path)
    kept = tmp_path / "small-sweep" / "max_steps-8" / "pretrain"
    succeed(*words)
    losses = [record["loss"] for record in read_records(kept / "metrics.jsonl") if "loss" in record]
    for name in ("final_metrics.json", "model.safetensors"):  # as a run that lost its machine after step 6
        (kept / name).unlink()
    for folder in kept.glob("checkpoint-8"):
        shutil.rmtree(folder)
    gone_on = succeed(*words)
    assert "max_steps-6: complete, passed over" in gone_on.stdout
    log = (kept.parent / "log.txt").read_text()
    assert "from step 6" in log or "checkpoint-6" in log
    assert [record["loss"] for record in read_records(kept / "metrics.jsonl") if "loss" in record] == losses


@pytest.mark.slow
def test_a_run_that_fails_is_named_and_the_others_go_on(recipe, tmp_path):
    words = ("hfgpt", "sweep", recipe, "--lr_scheduler_type", "no_such_one", "cosine", "--output_root", tmp_path)
    words += ("--hub_token", "hf_secret")
    stopped = run(*words, "--stop_on_failure")
    assert stopped.returncode == 2 and not list(tmp_path.glob("small-sweep/*cosine/*"))
    failed = run(*words, "--overwrite")
    assert failed.returncode == 2
    assert "lr_scheduler_type-no_such_one failed: " in failed.stderr and "no_such_one" in failed.stderr
    assert "Traceback" not in failed.stderr and "go on with: hfgpt sweep" in failed.stderr
    assert "--overwrite" not in failed.stderr  # which would begin the complete run anew, too
    assert (tmp_path / "small-sweep" / "lr_scheduler_type-cosine" / "pretrain" / "final_metrics.json").is_file()
    report = (tmp_path / "small-sweep" / "sweep.md").read_text()
    assert "| lr_scheduler_type-cosine" in report and "- lr_scheduler_type-no_such_one failed: " in report
    kept = [path.read_bytes() for path in (tmp_path / "small-sweep").rglob("*") if path.is_file()]
    assert not any(b"hf_secret" in content for content in kept)
    assert "hf_secret" not in stopped.stdout + stopped.stderr + failed.stdout + failed.stderr


def test_the_sentence_of_a_failed_run_is_found_behind_its_progress_bar():
    bar = " 43%|####      | 86/200 [00:28<00:37,  3.05it/s]"
    said = f"step 80\n\r{bar}\rguard: skip\n{bar}hfgpt: the loss is 15.65 at step 86.\n\r{bar}\n"
    assert _last_sentence(said) == "the loss is 15.65 at step 86."
    assert _last_sentence("hfgpt: first\nhfgpt: second\nbye\n") == "second"
    assert _last_sentence("one\ntwo\n") == "two"
    assert _last_sentence("") == "nothing was said"
