"""Each guard fires where its fault is caused for real, does exactly what its policy says, and else changes nothing."""

import math
import os
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch
from guarded_run import ROWS, Snapshots, StepRows, everything, faults, guarded_trainer, same
from safetensors.torch import load_file
from transformers import TrainerCallback

from hfgpt.errors import UserError
from hfgpt.training.arguments import PretrainArguments
from hfgpt.training.record import read_records

BAD = 81  # past the steps that say what is usual


def train(folder, rows, steps=(), **keys):
    """The trained trainer and copies of what it held after each of the `steps`."""
    trainer = guarded_trainer(folder, rows, **keys)
    snapshots = Snapshots(trainer, steps)
    trainer.add_callback(snapshots)
    trainer.train()
    return trainer, snapshots.after


@pytest.mark.parametrize("optim", ["muon", "adamw_torch", "adamw_torch_fused"])
def test_an_update_left_out_changes_neither_weights_nor_optimizer(tmp_path, optim):
    rows = StepRows(BAD + 2, poisoned=[BAD], strange=[BAD + 1])
    steps = range(BAD - 1, BAD + 3)
    _, after = train(tmp_path, rows, steps, optim=optim, max_steps=BAD + 2, nan_policy="skip")
    assert same(after[BAD - 1], after[BAD]) and same(after[BAD], after[BAD + 1])
    assert not same(after[BAD + 1], after[BAD + 2])
    found = faults(tmp_path)
    assert [(fault["step"], fault["policy"]) for fault in found] == [(BAD, "skip"), (BAD + 1, "skip")]
    assert found[0]["value"] == "nan" and found[1]["value"] > found[1]["limit"] > 0
    losses = [record["loss"] for record in read_records(tmp_path / "metrics.jsonl")]
    assert len(losses) == BAD + 2 and all(map(math.isfinite, losses))


def test_of_a_step_in_two_passes_one_strange_pass_leaves_the_whole_update_out(tmp_path):
    rows = StepRows(BAD + 1, strange=[BAD], rows_per_step=2 * ROWS, strange_from=ROWS)
    steps = [BAD - 1, BAD, BAD + 1]
    _, after = train(tmp_path, rows, steps, max_steps=BAD + 1, gradient_accumulation_steps=2)
    assert same(after[BAD - 1], after[BAD]) and not same(after[BAD], after[BAD + 1])
    (fault,) = faults(tmp_path)
    assert fault["step"] == BAD
    good = read_records(tmp_path / "metrics.jsonl")[BAD - 2]["loss"]
    assert good < fault["limit"] < fault["value"] < 5  # a mean over both passes: that of the strange one is above 6


def test_an_evaluation_between_a_bad_step_and_the_next_changes_nothing_of_what_is_done(tmp_path):
    rows, keys = StepRows(BAD + 2, strange=[BAD]), {"max_steps": BAD + 2, "logging_steps": 50}
    plain, _ = train(tmp_path / "plain", rows, **keys)
    evaluated, after = train(
        tmp_path / "evaluated",
        rows,
        [BAD - 1, BAD],
        held_out=StepRows(1),
        eval_strategy="steps",
        eval_steps=BAD // 3,
        **keys,
    )
    records = read_records(tmp_path / "evaluated" / "metrics.jsonl")
    assert {record["step"] for record in records if "val_loss" in record} >= {27, 54, BAD}
    assert same(after[BAD - 1], after[BAD])
    assert faults(tmp_path / "evaluated") == faults(tmp_path / "plain") != []
    assert same(everything(evaluated), everything(plain))


class ScaleFound(TrainerCallback):
    """The scale of float16 becomes one that fits, after 20 steps."""

    def __init__(self, scaler: torch.amp.GradScaler):
        self.scaler = scaler

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 20:
            self.scaler.update(1024.0)


@pytest.mark.parametrize("is_found", [True, False])
def test_infinite_gradients_are_float16s_own_affair_until_no_scale_helps(tmp_path, is_found):
    ignored = {"loss_spike_policy": "ignore", "grad_norm_policy": "ignore"}
    trainer = guarded_trainer(tmp_path, StepRows(40), max_steps=40, optim="adamw_torch", **ignored)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=math.inf)
    if is_found:
        trainer.add_callback(ScaleFound(trainer.accelerator.scaler))
        trainer.train()
        assert trainer.state.global_step == 40 and faults(tmp_path) == []
    else:
        with pytest.raises(UserError, match="not finite in 32 steps in a row, at whatever scale of float16"):
            trainer.train()


@pytest.mark.gpu
@pytest.mark.parametrize("optim", ["muon", "adamw_torch_fused"])
def test_a_gpu_leaves_an_update_out_by_itself(tmp_path, optim):
    keys = {"optim": optim, "max_steps": BAD + 1, "logging_steps": 1000, "use_cpu": False, "torch_compile": False}
    trainer, after = train(tmp_path, StepRows(BAD + 1, strange=[BAD]), [BAD - 1, BAD, BAD + 1], **keys)
    assert trainer.optimizer.optimizer.found_inf.device.type == "cuda"
    assert same(after[BAD - 1], after[BAD]) and not same(after[BAD], after[BAD + 1])
    assert [fault["step"] for fault in faults(tmp_path)] == [BAD]


@pytest.mark.parametrize("ignored", ["loss_spike_policy", "grad_norm_policy"])
def test_spikes_of_the_loss_and_exploding_gradients_are_seen_each_alone(tmp_path, ignored):
    train(tmp_path, StepRows(BAD, strange=[BAD]), max_steps=BAD, **{ignored: "ignore"})
    (fault,) = faults(tmp_path)
    assert fault["step"] == BAD
    assert fault["what"] == {"loss_spike_policy": "grad_norm", "grad_norm_policy": "loss"}[ignored]


def test_where_no_guard_fires_training_is_bit_identical_to_training_without(tmp_path):
    rows = StepRows(BAD)
    guarded, _ = train(tmp_path / "guarded", rows, max_steps=BAD, nan_policy="skip")
    ignored = {"loss_spike_policy": "ignore", "grad_norm_policy": "ignore"}
    free, _ = train(tmp_path / "free", rows, max_steps=BAD, **ignored)
    assert faults(tmp_path / "guarded") == []
    assert same(everything(guarded), everything(free))


def test_a_loss_that_is_not_finite_stops_the_run_by_default_and_nothing_of_it_is_saved(tmp_path):
    with pytest.raises(UserError, match="the loss is nan at step 5: lower the learning rates"):
        train(tmp_path, StepRows(8, poisoned=[5]), max_steps=8, logging_steps=100, save_strategy="steps", save_steps=5)
    assert not list(tmp_path.glob("checkpoint-*"))


class BrokenWeight(TrainerCallback):
    """After the third step one weight is infinite, as a fault of the memory makes it."""

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step == 3:
            next(model.parameters()).data[0, 0] = math.inf


def test_weights_that_are_not_finite_are_never_saved_though_every_loss_was(tmp_path):
    keys = {"max_steps": 5, "save_strategy": "steps", "save_steps": 3, "logging_steps": 100}
    trainer = guarded_trainer(tmp_path, StepRows(5), **keys)
    trainer.add_callback(BrokenWeight())
    with pytest.raises(UserError, match="the weights hold values that are not finite at step 3: .*--overwrite"):
        trainer.train()
    assert not list(tmp_path.glob("checkpoint-*"))


def test_the_result_of_a_run_without_checkpoints_is_finite_or_not_saved(tmp_path):
    trainer = guarded_trainer(tmp_path, StepRows(3), max_steps=3)
    trainer.add_callback(BrokenWeight())
    trainer.train()
    with pytest.raises(UserError, match="the weights hold values that are not finite at step 3"):
        trainer.save_model()
    assert not (tmp_path / "model.safetensors").exists()


def test_stop_ends_the_run_at_a_spike(tmp_path):
    with pytest.raises(UserError, match=f"the loss is .* at step {BAD}, above its limit.* loss_spike_policy is stop"):
        train(tmp_path, StepRows(BAD + 5, strange=[BAD]), max_steps=BAD + 5, loss_spike_policy="stop")


def test_rollback_takes_back_the_checkpoint_and_goes_on_with_the_data_that_follow(tmp_path):
    saved = BAD - 2
    rows = StepRows(BAD + 4, strange=[BAD])
    keys = {"save_strategy": "steps", "save_steps": saved, "max_steps": BAD + 4, "loss_spike_policy": "rollback"}
    steps = [saved, BAD, BAD + 1, BAD + 2]
    trainer, after = train(tmp_path, rows, steps, logging_steps=50, **keys)
    assert not same(after[saved], after[BAD])
    assert same(
        after[saved], after[BAD + 1]
    )  # seen one step late; that step's gradients were of weights that are gone
    weights = load_file(tmp_path / f"checkpoint-{saved}" / "model.safetensors")
    assert all(torch.equal(after[BAD + 1][name], weight) for name, weight in weights.items())
    assert not same(after[BAD + 1], after[BAD + 2])
    assert trainer.state.global_step == BAD + 4
    assert [(fault["step"], fault["policy"]) for fault in faults(tmp_path)] == [(BAD, "rollback")]


def test_the_rates_go_on_by_their_schedule_after_a_rollback(tmp_path):
    keys = {"max_steps": BAD + 4, "save_strategy": "steps", "save_steps": BAD - 2, "decay_ratio": 1.0}
    rates = {}
    for policy in ("rollback", "ignore"):
        folder = tmp_path / policy
        train(folder, StepRows(BAD + 4, strange=[BAD]), loss_spike_policy=policy, grad_norm_policy="ignore", **keys)
        rates[policy] = [record.get("learning_rate") for record in read_records(folder / "metrics.jsonl")]
    assert len(faults(tmp_path / "rollback")) == 1
    assert rates["rollback"] == rates["ignore"]


def test_rollback_without_a_checkpoint_stops_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match="rollback found no complete checkpoint.*lower save_steps"):
        train(tmp_path, StepRows(8, poisoned=[3]), max_steps=8, nan_policy="rollback")


@pytest.mark.parametrize("policy, done", [("skip", "3 updates in a row were left out"), ("rollback", "3 rollbacks")])
def test_faults_that_do_not_end_stop_the_run_after_all(tmp_path, policy, done):
    rows = StepRows(BAD + 20, poisoned=range(BAD, BAD + 20))
    keys = {
        "max_steps": BAD + 20,
        "nan_policy": policy,
        "guard_limit": 3,
        "save_strategy": "steps",
        "save_steps": BAD - 1,
    }
    with pytest.raises(UserError, match=f"the loss is nan at step .*{done}.*guard_limit.*nan_policy"):
        train(tmp_path, rows, **keys)


def test_a_run_that_goes_on_leaves_out_what_the_uninterrupted_one_left_out(tmp_path):
    keys = {"max_steps": BAD + 4, "save_strategy": "steps", "save_steps": BAD - 2}
    rows = StepRows(BAD + 4, strange=[BAD])
    whole, _ = train(tmp_path / "whole", rows, **keys)
    shutil.copytree(tmp_path / "whole", tmp_path / "resumed")
    resumed = guarded_trainer(tmp_path / "resumed", rows, **keys)
    resumed.train(resume_from_checkpoint=str(tmp_path / "resumed" / f"checkpoint-{BAD - 2}"))
    assert [fault["step"] for fault in faults(tmp_path / "resumed")] == [BAD]
    assert faults(tmp_path / "whole") == faults(tmp_path / "resumed")
    assert same(everything(whole), everything(resumed))


class DeadlyRows(StepRows):
    """Rows whose reader is killed, as the system kills where memory has run out, at the third step."""

    def __getitem__(self, row):
        if row >= 2 * ROWS:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(row)


def test_a_loader_that_was_killed_ends_the_run_in_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"loads data has died at step \d, .*lower dataloader_num_workers"):
        train(tmp_path, DeadlyRows(8), max_steps=8, dataloader_num_workers=1)


def test_memory_that_runs_out_is_told_with_the_plan_and_the_keys_to_change(tmp_path):
    trainer = guarded_trainer(
        tmp_path, StepRows(2, rows_per_step=16_000), layers=4, per_device_train_batch_size=16_000, max_steps=2
    )
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**26, before[1]))
    try:
        with pytest.raises(UserError) as failure:
            trainer.train()
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    sentence = str(failure.value)
    print(sentence)
    assert "out of memory at step 1: 0." in sentence and "GiB more were asked for; `hfgpt plan` estimates" in sentence
    keys = ("per_device_train_batch_size to 8000 (0.", "activation_checkpointing to true (0.", "data.max_length (0.")
    places = [sentence.index(key) for key in keys]
    assert places == sorted(places) and sentence.count(" GiB") == 5


def test_policies_are_checked_by_name(tmp_path):
    for key, value, words in (
        ("nan_policy", "ignore", "nan_policy must be stop or rollback or skip, not ignore"),
        ("loss_spike_policy", "jump", "loss_spike_policy must be stop or rollback or skip or ignore, not jump"),
        ("guard_window", 8, "guard_window must be 32 or more, not 8"),
        ("guard_limit", 0, "guard_limit must be 1 or more, not 0"),
    ):
        with pytest.raises(ValueError, match=words):
            PretrainArguments(output_dir=str(tmp_path), **{key: value})
