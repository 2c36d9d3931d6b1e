"""What pretraining promises, on a model so small that a run takes seconds."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from commands import succeed
from safetensors.torch import load_file

from hfgpt.commands import data_prepare
from hfgpt.errors import UserError
from hfgpt.pretrain import main
from hfgpt.training.record import read_records

SHAPE = ["recipes/tiny.yaml", "--depth", "2", "--hidden_size", "128", "--vocab_size", "400", "--max_length", "64"]
DATA = ["--tinyworld_documents", "400", "--validation_fraction", "0.05", "--num_proc", "1"]
BATCH = ["--total_batch_size", "512", "--per_device_train_batch_size", "8"]
LENGTH_KEYS = {"--max_steps", "--target_flops", "--target_param_data_ratio", "--num_train_epochs"}
QUIET = ["--disable_tqdm", "--eval_tasks", "[]", "--sample_steps", "0", "--eval_strategy", "no", "--logging_steps", "1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """One root for all runs of this file, so that tokenizer and rows are made once."""
    folder = tmp_path_factory.mktemp("runs")
    data_prepare([*SHAPE, *DATA, "--output_root", str(folder)])
    return folder


@pytest.fixture
def pretrain(root, tmp_path):
    """Run pretraining in this process; returns the stage's folder."""

    def run(*flags: str, name: str = "pretrain") -> Path:
        folder = root / "tiny" / tmp_path.name / name
        length = [] if LENGTH_KEYS & set(flags) else ["--max_steps", "6"]
        where = ["--output_root", str(root), "--output_dir", str(folder)]
        main([*SHAPE, *DATA, *BATCH, *length, *QUIET, *where, *flags])
        return folder

    return run


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_records(folder / "metrics.jsonl") if "loss" in record]


def weights_equal(a: Path, b: Path) -> bool:
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_resumed_run_ends_bit_identical_and_repeats_no_step(pretrain):
    whole = pretrain("--save_steps", "3", name="whole")
    interrupted = whole.with_name("interrupted")
    shutil.copytree(whole, interrupted)
    (interrupted / "final_metrics.json").unlink()
    shutil.rmtree(interrupted / "checkpoint-6")
    (interrupted / "model.safetensors").unlink()
    pretrain("--save_steps", "3", name="interrupted")
    assert weights_equal(whole, interrupted)
    assert losses(whole) == losses(interrupted)
    steps = [record["step"] for record in read_records(interrupted / "metrics.jsonl") if "loss" in record]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_cut_checkpoint_is_named_and_passed_over(pretrain, capsys):
    whole = pretrain("--save_steps", "2", "--save_total_limit", "5", name="whole")
    shutil.rmtree(whole / "checkpoint-6")
    harmed = whole / "checkpoint-4" / "optimizer.pt"
    harmed.write_bytes(harmed.read_bytes()[:100])
    before = load_file(whole / "model.safetensors")
    (whole / "final_metrics.json").unlink()
    pretrain("--save_steps", "2", "--save_total_limit", "5", name="whole")
    printed = capsys.readouterr().out
    assert "checkpoint-4 is incomplete (optimizer.pt)" in printed
    assert "going on from" in printed and "checkpoint-2" in printed
    after = load_file(whole / "model.safetensors")
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_accumulation_does_not_change_the_loss(pretrain):
    once = losses(pretrain(name="once"))
    many = losses(pretrain("--per_device_train_batch_size", "2", name="many"))
    assert len(once) == 6
    assert once == pytest.approx(many, abs=1e-5)


def test_epochs_are_counted_in_rows_of_the_prepared_data(pretrain, root):
    folder = pretrain("--num_train_epochs", "1.5", "--total_batch_size", "4096", "--logging_steps", "10")
    final = json.loads((folder / "final_metrics.json").read_text())
    records = [record for record in read_records(folder / "metrics.jsonl") if "loss" in record]
    assert final["steps"] * 4096 == pytest.approx(1.5 * len(train_rows(folder)) * 64, rel=0.05)
    assert records[-1]["epoch"] == pytest.approx(records[-1]["tokens"] / (len(train_rows(folder)) * 64), abs=1e-3)


@pytest.mark.parametrize(
    ("flags", "steps"),
    [(("--target_flops", "2e11"), None), (("--target_param_data_ratio", "0.01"), None), (("--max_steps", "3"), 3)],
)
def test_length_follows_from_flops_from_a_ratio_or_from_steps(pretrain, flags, steps):
    folder = pretrain(*flags)
    final = json.loads((folder / "final_metrics.json").read_text())
    if flags[0] == "--target_flops":
        assert final["flops"] == pytest.approx(2e11, rel=0.1)
    elif flags[0] == "--target_param_data_ratio":
        config = json.loads((folder / "config.json").read_text())
        matrices = 2 * 12 * 128 * 128 + 128 * config["vocab_size"]
        assert final["tokens"] == pytest.approx(0.01 * matrices, abs=512)
    else:
        assert final["steps"] == steps


@pytest.mark.parametrize("schedule", ["cosine", "linear", "warmup_stable_decay"])
def test_schedules_warm_up_and_come_down(pretrain, schedule):
    folder = pretrain("--lr_scheduler_type", schedule, "--warmup_steps", "2", "--decay_ratio", "0.5")
    rates = [record["learning_rate"] for record in read_records(folder / "metrics.jsonl") if "loss" in record]
    assert max(rates) == pytest.approx(0.02)
    assert rates[-1] < 0.5 * max(rates)
    assert rates[0] < max(rates)


def test_adamw_and_activation_checkpointing_learn_too(pretrain):
    plain = losses(pretrain("--optim", "adamw_torch", "--learning_rate", "3e-3", name="plain"))
    again = losses(
        pretrain("--optim", "adamw_torch", "--learning_rate", "3e-3", "--activation_checkpointing", name="gc")
    )
    assert plain[-1] < plain[0] - 0.5
    assert again == pytest.approx(plain, abs=1e-5)


def test_a_stream_trains_on_rows_that_are_never_prepared(pretrain):
    folder = pretrain("--streaming", "--shuffle_window", "64")
    assert losses(folder)[-1] < losses(folder)[0] - 0.5
    streamed = [p.parent for p in (folder.parents[1] / "data").glob("*/prepared.json") if is_streamed(p)]
    assert streamed and not any((made / "train").exists() for made in streamed)


def is_streamed(record: Path) -> bool:
    return json.loads(record.read_text())["inputs"]["streaming"]


def test_training_goes_on_from_a_model_that_is_named(pretrain):
    first = pretrain(name="first")
    second = pretrain("--model_name_or_path", str(first), name="second")
    assert losses(second)[0] < losses(first)[0] - 0.5


def test_a_model_with_another_vocabulary_is_refused(pretrain, tmp_path):
    from hfgpt import GPTConfig, GPTForCausalLM

    other = tmp_path / "other"
    GPTForCausalLM(GPTConfig.from_depth(1, vocab_size=77, max_position_embeddings=64)).save_pretrained(other)
    with pytest.raises(UserError, match="vocabulary of 77 but the tokenizer has"):
        pretrain("--model_name_or_path", str(other))


def test_a_loss_that_is_not_a_number_stops_the_run(pretrain):
    with pytest.raises(UserError, match="loss is (nan|inf) at step"):
        pretrain("--optim", "sgd", "--learning_rate", "1e30", "--max_grad_norm", "0")


def test_held_out_loss_is_that_of_a_loop_written_out(pretrain):
    from transformers import AutoTokenizer

    from hfgpt import GPTForCausalLM
    from hfgpt.data.tokenizer import token_byte_lengths

    folder = pretrain("--eval_strategy", "steps", "--eval_steps", "3", "--per_device_eval_batch_size", "3")
    final = json.loads((folder / "final_metrics.json").read_text())
    model, tokenizer = GPTForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    token_bytes = token_byte_lengths(tokenizer)
    model.eval()
    all_losses, text_nats, text_bytes = [], 0.0, 0
    for row in held_out_rows(folder):
        ids = torch.tensor([row])
        starts = (ids[0] == tokenizer.bos_token_id).nonzero().flatten().tolist()
        for start, end in zip(starts, [*starts[1:], len(row)], strict=True):  # each document alone
            piece = ids[:, start : end + 1]  # and what follows it, as a target only
            with torch.no_grad():
                logits = model(input_ids=ids[:, start:end]).logits[0]
            targets = piece[0, 1:]
            nats = torch.nn.functional.cross_entropy(logits[: len(targets)], targets, reduction="none")
            all_losses += nats.tolist()
            is_text = torch.from_numpy(token_bytes)[targets] > 0
            text_nats += nats[is_text].sum().item()
            text_bytes += int(token_bytes[targets.numpy()].sum())
    assert final["val_loss"] == pytest.approx(sum(all_losses) / len(all_losses), abs=1e-4)
    assert final["val_bits_per_byte"] == pytest.approx(text_nats / text_bytes / math.log(2), abs=1e-4)


def train_rows(stage: Path) -> list[list[int]]:
    return rows_of(stage, "train")


def held_out_rows(stage: Path) -> list[list[int]]:
    return rows_of(stage, "validation")


def rows_of(stage: Path, split: str) -> list[list[int]]:
    from datasets import load_from_disk

    (record,) = [p for p in (stage.parents[1] / "data").glob("*/prepared.json") if not is_streamed(p)]
    return load_from_disk(str(record.parent / split))["input_ids"]


def test_trackers_get_losses_and_histograms(pretrain, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    folder = pretrain("--report_to", "tensorboard", "trackio", "--log_histograms", "--logging_steps", "2")
    tags: dict[str, set] = {"scalars": set(), "histograms": set()}
    for file in folder.rglob("events.out.tfevents*"):
        events = EventAccumulator(str(file))
        events.Reload()
        for kind in tags:
            tags[kind] |= set(events.Tags()[kind])
    assert "train/loss" in tags["scalars"]
    assert "weights/model.embed_tokens.weight" in tags["histograms"]
    assert "gradients/model.layers.0.mlp.up_proj.weight" in tags["histograms"]
    assert any((tmp_path / "trackio").rglob("*.db"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher",
    [
        ("accelerate", "launch", "--config_file", "accelerate_configs/cpu_ddp.yaml", "hfgpt/pretrain.py"),
        ("torchrun", "--nproc_per_node", "2", "hfgpt/pretrain.py"),
    ],
    ids=["accelerate", "torchrun"],
)
def test_two_processes_train_as_one(pretrain, root, tmp_path, launcher):
    alone = pretrain("--per_device_train_batch_size", "4", "--eval_strategy", "steps", "--eval_steps", "6", name="one")
    folder = alone.with_name("two")
    flags = [*SHAPE, *DATA, *BATCH, *QUIET, "--output_root", root, "--output_dir", folder, "--use_cpu"]
    more = ["--max_steps", "6", "--per_device_train_batch_size", "4", "--eval_strategy", "steps", "--eval_steps", "6"]
    done = succeed(*launcher, *flags, *more, OMP_NUM_THREADS="1")
    assert "2 process(es)" in done.stdout
    assert losses(folder) == pytest.approx(losses(alone), abs=1e-4)
    one, two = (json.loads((f / "final_metrics.json").read_text()) for f in (alone, folder))
    assert two["val_loss"] == pytest.approx(one["val_loss"], abs=1e-4)
    assert two["val_bits_per_byte"] == pytest.approx(one["val_bits_per_byte"], abs=1e-4)


@pytest.mark.slow
def test_python_minus_m_runs_it_too(root, tmp_path):
    flags = [*SHAPE, *DATA, *BATCH, *QUIET, "--output_root", root, "--output_dir", tmp_path / "m"]
    succeed("python", "-m", "hfgpt.pretrain", *flags, "--max_steps", "1")
    assert (tmp_path / "m" / "model.safetensors").exists()
