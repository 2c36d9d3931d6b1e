"""A run that was stopped and goes on ends as the run that never was: weights to the last bit, records without a seam.

One run is made whole with a checkpoint at every step; copies of it that were "stopped" after one of them go on.
"""

import shutil
from pathlib import Path

import pytest
import torch
from commands import succeed
from safetensors.torch import load_file

from hfgpt import dpo, grpo, midtrain, pretrain, sft
from hfgpt.errors import UserError
from hfgpt.run_identity import deciding_settings
from hfgpt.training import rates
from hfgpt.training.chat_arguments import GrpoArguments
from hfgpt.training.record import read_records

RECIPE = """\
model: {depth: 2, hidden_size: 64, embedding_dropout: 0.1, hidden_dropout: 0.1}
tokenizer: {vocab_size: 400}
data: {dataset: tinyworld, tinyworld_documents: 120, tinyworld_conversations: 60, tinyworld_preferences: 40,
  tinyworld_prompts: 40, max_length: 64, num_proc: 1, validation_fraction: 0.1, shuffle_window: 16}
pretrain: {max_steps: 7, total_batch_size: 512, per_device_train_batch_size: 4, sample_prompts: [Hello],
  min_lr_ratio: 0.2, sample_steps: 3, sample_max_new_tokens: 4, logging_steps: 3, eval_steps: 4, save_steps: 1,
  save_total_limit: 0}
midtrain: {max_steps: 5, total_batch_size: 512, per_device_train_batch_size: 4, sample_steps: 0, logging_steps: 3,
  save_steps: 1, save_total_limit: 0}
sft: {max_steps: 7, per_device_train_batch_size: 4, gradient_accumulation_steps: 2, logging_steps: 3, save_steps: 1,
  save_total_limit: 0, sample_max_new_tokens: 4}
dpo: {max_steps: 5, per_device_train_batch_size: 4, gradient_accumulation_steps: 2, logging_steps: 3, save_steps: 1,
  save_total_limit: 0, sample_max_new_tokens: 4, optim: adamw_torch}
grpo: {max_steps: 4, per_device_train_batch_size: 8, num_generations: 4, gradient_accumulation_steps: 2,
  max_completion_length: 4, logging_steps: 3, save_steps: 1, save_total_limit: 0, sample_max_new_tokens: 4,
  pass_at: [1], pass_at_prompts: 4, optim: adamw_torch}
"""
QUIET = ["--disable_tqdm", "true", "--report_to", "none"]
STAGES = {"pretrain": pretrain, "midtrain": midtrain, "sft": sft, "dpo": dpo, "grpo": grpo}
NOT_OF_THE_STEPS = {"seconds", "tokens_per_second", "peak_memory_bytes", "save_seconds", "checkpoint_bytes"}


class World:
    """A recipe, its runs, and stages that are stopped and go on."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.recipe = folder / "small.yaml"
        self.recipe.write_text(RECIPE)

    def words(self, stage: str, name: str, *flags: str) -> list[str]:
        """The arguments of a stage whose results go to the folder `name`."""
        start = [] if stage == "pretrain" else ["--model_name_or_path", str(self.folder / "runs" / "base")]
        where = ["--output_root", str(self.folder / "runs"), "--output_dir", str(self.folder / "runs" / name)]
        return [str(self.recipe), *where, *start, *QUIET, *flags]

    def run(self, stage: str, name: str, *flags: str) -> Path:
        STAGES[stage].main(self.words(stage, name, *flags))
        return self.folder / "runs" / name

    def stopped(self, whole: Path, step: int) -> Path:
        """A copy of a run as it was when it was killed after `step`, whose checkpoint is the last."""
        copy = whole.with_name(f"{whole.name}-stopped-{step}")
        shutil.copytree(whole, copy)
        for checkpoint in copy.glob("checkpoint-[0-9]*"):
            if int(checkpoint.name.rpartition("-")[2]) > step:
                shutil.rmtree(checkpoint)
        for name in ("final_metrics.json", "model.safetensors"):
            (copy / name).unlink()
        return copy


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    """The recipe, with a base model in runs/base for the stages that start from one."""
    made = World(tmp_path_factory.mktemp("world"))
    made.run("pretrain", "base", "--max_steps", "2", "--save_steps", "100", "--eval_strategy", "no")
    return made


def assert_same_run(first: Path, second: Path) -> None:
    one, other = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert records_of(first) == records_of(second)
    assert read_records(first / "samples.jsonl") == read_records(second / "samples.jsonl")


def records_of(folder: Path) -> list[dict]:
    """What the records say of the steps, not of the time that they took."""
    records = read_records(folder / "metrics.jsonl")
    kept = [{k: v for k, v in r.items() if k not in NOT_OF_THE_STEPS and not k.endswith("_seconds")} for r in records]
    return [record for record in kept if "loss" in record or "val_loss" in record]


CASES = {
    "prepared": ("pretrain", [], [2, 4]),
    "prepared, second epoch, two loader processes": (
        "pretrain",
        ["--num_train_epochs", "1.5", "--dataloader_num_workers", "2", "--total_batch_size", "4096"],
        [6],
    ),
    "streaming": ("pretrain", ["--streaming"], [2, 5]),
    "streaming, a loader process": ("pretrain", ["--streaming", "--dataloader_num_workers", "1"], [3]),
    "midtrain": ("midtrain", [], [2]),
    "sft": ("sft", ["--optim", "muon"], [1, 5]),
    "sft, epochs, a loader process": (
        "sft",
        ["--num_train_epochs", "2", "--max_rows", "20", "--dataloader_num_workers", "1"],
        [3],
    ),
    "dpo": ("dpo", [], [2]),
    "grpo": ("grpo", [], [2, 4]),  # its data would last longer
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_goes_on_is_the_run_that_was_never_stopped(world, case):
    stage, flags, steps = CASES[case]
    whole = world.run(stage, f"whole {case}", *flags)
    for step in steps:
        stopped = world.stopped(whole, step)
        world.run(stage, stopped.name, *flags)
        assert_same_run(whole, stopped)


@pytest.fixture(scope="module")
def begun(world) -> Path:
    """A pretraining that was killed after its third step of seven, before the rate falls."""
    whole = world.run("pretrain", "begun")
    return world.stopped(whole, 3)


def refusal(world: World, begun: Path, *flags: str) -> str:
    """The sentence with which a run is not gone on with under `flags`."""
    with pytest.raises(UserError) as refused:
        world.run("pretrain", begun.name, *flags)
    return str(refused.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--max_grad_norm", "0.5"), ["max_grad_norm 1.0, not 0.5"]),
        (("--warmup_steps", "3", "--decay_ratio", "0.2"), ["warmup_steps 0, not 3", "decay_ratio 0.5, not 0.2"]),
        (("--min_document_chars", "9"), ["data.min_document_chars 1, not 9"]),
        (("--cross_document_attention",), ["cross_document_attention False, not True"]),
        (("--model.hidden_dropout", "0.2"), ["architecture.hidden_dropout 0.1, not 0.2"]),
        (("--total_batch_size", "1024"), ["tokens_per_step 512, not 1024"]),
        (("--lr_scheduler_type", "cosine"), ["lr_scheduler_type warmup_stable_decay, not cosine"]),
    ],
)
def test_what_decides_the_steps_must_stay_and_is_named(world, begun, flags, words):
    before = {path: path.stat().st_mtime_ns for path in begun.rglob("*")}
    sentence = refusal(world, begun, *flags)
    assert {path: path.stat().st_mtime_ns for path in begun.rglob("*")} == before
    assert all(part in sentence for part in words)
    assert "rows" not in sentence and "--overwrite" in sentence


def test_what_enters_the_loss_of_answers_by_vllm_must_stay_and_where_vllm_runs_may_change(tmp_path):
    settings = deciding_settings(GrpoArguments(output_dir=str(tmp_path), use_cpu=True, num_generations=8))
    kept = {name for name in settings if name.startswith("vllm_")}
    assert {"vllm_importance_sampling_correction", "vllm_importance_sampling_mode"} <= kept
    assert all(name.startswith("vllm_importance_sampling_") for name in kept)


def test_a_checkpoint_of_another_run_is_gone_on_from_under_the_same_settings_only(world, begun):
    named = ["--resume_from_checkpoint", str(begun / "checkpoint-3")]
    with pytest.raises(UserError, match="began with max_grad_norm 1.0, not 0.5"):
        world.run("pretrain", "elsewhere", *named, "--max_grad_norm", "0.5")
    assert not (begun.parent / "elsewhere").exists()


def test_the_length_may_not_change_once_the_rate_has_begun_to_fall(world, begun):
    whole = begun.with_name("begun")
    falling = world.stopped(whole, 5)
    before = {path: path.stat().st_mtime_ns for path in falling.rglob("*")}
    more = ["--sample_steps", "1", "--logging_steps", "1"]  # which may change, and would be written down
    assert "rate of the run's next step is 0.01" in refusal(world, falling, "--max_steps", "20", *more)
    assert "at step 5, beyond its new length of 4 steps" in refusal(world, falling, "--max_steps", "4", *more)
    assert {path: path.stat().st_mtime_ns for path in falling.rglob("*")} == before


def test_the_model_that_a_run_started_from_must_have_the_weights_that_it_had(world):
    start = world.folder / "runs" / "start"
    shutil.copytree(world.folder / "runs" / "base", start)
    flags = ["--model_name_or_path", str(start), "--max_steps", "2"]
    stopped = world.stopped(world.run("pretrain", "further", *flags), 1)
    shutil.copy(world.folder / "runs" / "further" / "model.safetensors", start)
    before = {path: path.stat().st_mtime_ns for path in stopped.rglob("*")}
    assert "began with start_weights " in refusal(world, stopped, *flags)
    assert {path: path.stat().st_mtime_ns for path in stopped.rglob("*")} == before


def test_a_longer_run_goes_on_before_the_rate_falls_and_what_changes_no_step_may_change(world, begun):
    more = ["--max_steps", "8", "--logging_steps", "1", "--eval_steps", "2", "--per_device_train_batch_size", "2"]
    more += ["--save_steps", "4", "--sample_steps", "0"]
    longer = world.run("pretrain", begun.name, *more)
    from_the_start = world.run("pretrain", "longer", "--max_steps", "8", "--save_steps", "100")
    records = [r for r in records_of(longer) if "loss" in r]
    assert [r["step"] for r in records] == [1, 3, 4, 5, 6, 7, 8]  # 3 as it was: every third
    assert {p.name for p in longer.glob("checkpoint-*")} == {f"checkpoint-{n}" for n in (1, 2, 3, 4, 8)}
    assert [r["step"] for r in records_of(longer) if "val_loss" in r] == [4, 6, 8]
    expected = {r["step"]: r["learning_rate"] for r in records_of(from_the_start) if "loss" in r}
    assert {r["step"]: r["learning_rate"] for r in records if r["step"] in expected} == expected


def test_a_longer_run_keeps_the_rate_that_followed_from_its_first_length(world, monkeypatch):
    monkeypatch.setattr(rates, "REFERENCE_STEPS", 8)
    large = ["--total_batch_size", "8192", "--logging_steps", "1", "--sample_steps", "0", "--eval_strategy", "no"]
    begun = world.stopped(world.run("pretrain", "few-steps", *large, "--max_steps", "4"), 1)
    longer = world.run("pretrain", begun.name, *large, "--max_steps", "8")
    highest = max(r["learning_rate"] for r in records_of(longer) if "learning_rate" in r)
    assert highest == pytest.approx(0.02 * 2**0.32)
    assert rates.muon_rate(8192, 8) == 0.02


@pytest.mark.slow
def test_rows_are_the_same_for_one_two_and_four_processes(world):
    exact = ["--embedding_dropout", "0", "--hidden_dropout", "0", "--logging_steps", "1", "--sample_steps", "0"]
    exact += ["--max_steps", "6", "--per_device_train_batch_size", "2"]
    whole = world.run("pretrain", "processes", *exact)
    expected = [r["loss"] for r in records_of(whole) if "loss" in r]
    run = world.stopped(whole, 2)
    for processes, after in ((2, 3), (4, 5)):
        launcher = ["torchrun", "--standalone", "--nproc_per_node", str(processes), "hfgpt/pretrain.py"]
        done = succeed(*launcher, *world.words("pretrain", run.name, *exact), "--use_cpu", OMP_NUM_THREADS="1")
        assert f"{processes} process(es)" in done.stdout
        assert [r["loss"] for r in records_of(run) if "loss" in r] == pytest.approx(expected, abs=1e-4)
        run = world.stopped(run, after)
    world.run("pretrain", run.name, *exact)
    assert [r["loss"] for r in records_of(run) if "loss" in r] == pytest.approx(expected, abs=1e-4)
