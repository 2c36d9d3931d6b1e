"""What pretraining promises, on a model so small that a run takes seconds."""

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from commands import succeed
from safetensors.torch import load_file

from hfgpt.commands import data_prepare
from hfgpt.errors import UserError
from hfgpt.pretrain import main
from hfgpt.report.report_card import write_report
from hfgpt.training.record import read_records

SHAPE = ["recipes/tiny.yaml", "--depth", "2", "--hidden_size", "128", "--vocab_size", "400", "--max_length", "64"]
DATA = ["--tinyworld_documents", "400", "--validation_fraction", "0.05", "--num_proc", "1"]
BATCH = ["--total_batch_size", "512", "--per_device_train_batch_size", "8"]
LENGTH_KEYS = {"--max_steps", "--target_flops", "--target_param_data_ratio", "--num_train_epochs"}
QUIET = [
    "--disable_tqdm",
    "--eval_tasks",
    "[]",
    "--sample_steps",
    "0",
    "--eval_strategy",
    "no",
    "--logging_steps",
    "1",
]


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
        main([*SHAPE, *DATA, *BATCH, *length, *QUIET, *where, *flags])  # a flag given twice: the last wins
        return folder

    return run


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in read_records(folder / "metrics.jsonl") if "loss" in record]


def weights_equal(a: Path, b: Path) -> bool:
    first, second = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def report_of(stage: Path, run: Path) -> tuple[dict[str, str], bytes]:
    """What the report card of a run of this stage alone says was done, by the name of the row, and its plot."""
    shutil.copytree(stage, run / "pretrain")
    lines = write_report(run).with_suffix(".md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    work = {cells[0]: " ".join(cells[1:]) for cells in rows if cells[0] in {"steps", "epochs", "tokens", "FLOPs"}}
    return work, (run / "report" / "timeline.png").read_bytes()


def test_a_resumed_run_ends_bit_identical_repeats_no_step_and_is_reported_as_one(pretrain, tmp_path):
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
    work, plot = report_of(interrupted, tmp_path / "interrupted" / "small")
    assert len(work) == 4 and work["steps"].strip() == "6"
    assert (work, plot) == report_of(whole, tmp_path / "whole" / "small")


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


def test_token_pairs_are_half_forgotten_where_rows_are_read_again(pretrain, capsys):
    flags = ("--bigram_vocab_size", "1024", "--num_train_epochs", "2", "--total_batch_size", "4096")
    table = "model.embed_bigrams.table.weight"
    kept = load_file(pretrain(*flags, "--bigram_weight_decay", "0", name="kept") / "model.safetensors")[table]
    assert "token pairs decay" not in capsys.readouterr().out
    forgotten = load_file(pretrain(*flags, name="forgotten") / "model.safetensors")[table]
    assert "each row is read 1.98 times" in capsys.readouterr().out
    assert 0 < forgotten.norm() < 0.7 * kept.norm()


def test_a_run_that_is_made_longer_takes_the_decay_of_its_new_length(pretrain, capsys):
    flags = ("--bigram_vocab_size", "1024", "--total_batch_size", "4096", "--lr_scheduler_type", "constant")

    def decay(folder: Path) -> float:
        newest = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.removeprefix("checkpoint-")))
        groups = torch.load(newest / "optimizer.pt")["param_groups"]
        return next(group["weight_decay"] for group in groups if group["name"] == "bigrams")

    once = pretrain(*flags, "--num_train_epochs", "1")
    assert decay(once) == 0
    for name in ("final_metrics.json", "model.safetensors"):  # as if it were stopped after its last checkpoint
        (once / name).unlink()
    capsys.readouterr()
    longer = decay(pretrain(*flags, "--num_train_epochs", "2"))
    printed = capsys.readouterr().out
    assert re.search(r"resum|go(es|ing) on", printed)
    assert f"token pairs decay by {longer:.2g}" in printed


def test_text_that_is_read_too_often_is_warned_of(pretrain, tmp_path, capsys):
    few = ("--tinyworld_documents", "40", "--total_batch_size", "4096", "--output_root", str(tmp_path))
    pretrain(*few, "--max_steps", "8", name="often")
    printed = capsys.readouterr().out
    rows = int(re.search(r"-> ([\d,]+) rows", printed)[1])
    assert f"warning: each row is read {8 * 64 / rows:.1f} times" in printed
    pretrain(*few, "--max_steps", "2", name="seldom")
    assert "warning" not in capsys.readouterr().out


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
    assert plain[-1] < plain[0] - 0.1
    assert again == pytest.approx(plain, abs=1e-5)


def test_a_stream_trains_on_rows_that_are_never_prepared(pretrain):
    folder = pretrain("--streaming", "--shuffle_window", "64")
    assert losses(folder)[-1] < losses(folder)[0] - 0.5
    streamed = [p.parent for p in (folder.parents[1] / "data").glob("*/prepared.json") if is_streamed(p)]
    assert streamed and not any((made / "train").exists() for made in streamed)


def is_streamed(record: Path) -> bool:
    return json.loads(record.read_text())["inputs"]["streaming"]


def test_training_goes_on_from_a_model_that_is_named(pretrain, tmp_path):
    first = pretrain(name="first")
    second = pretrain("--model_name_or_path", str(first), name="second")
    assert losses(second)[0] < losses(first)[0] - 0.5
    rows = ("--max_length", "128", "--per_device_train_batch_size", "4", "--output_root", str(tmp_path))
    longer = pretrain("--model_name_or_path", str(first), *rows, name="longer")
    assert json.loads((longer / "config.json").read_text())["max_position_embeddings"] == 128


def test_tokens_that_the_tokenizer_has_beyond_the_models_are_added(pretrain, root):
    from transformers import AutoTokenizer

    from hfgpt import GPTForCausalLM
    from hfgpt.model.loading import load_model

    first = pretrain(name="first")
    tokenizer = AutoTokenizer.from_pretrained(first)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|new|>"]})
    model = load_model(str(first), tokenizer, max_length=64)
    old = GPTForCausalLM.from_pretrained(first)
    assert model.config.vocab_size == old.config.vocab_size + 1
    ids = torch.tensor([[1, 20, 30]])
    assert torch.allclose(model(ids).logits[..., :-1], old(ids).logits, atol=1e-5)


def test_a_model_trained_with_another_tokenizer_of_the_same_size_is_refused(pretrain, tmp_path):
    from transformers import AutoTokenizer

    first = pretrain(name="first")
    other = tmp_path / "other"
    shutil.copytree(first, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    longest = sorted(vocabulary, key=len)[-2:]
    vocabulary[longest[0]], vocabulary[longest[1]] = vocabulary[longest[1]], vocabulary[longest[0]]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert len(AutoTokenizer.from_pretrained(other)) == len(AutoTokenizer.from_pretrained(first))
    with pytest.raises(UserError, match="another tokenizer"):
        pretrain("--model_name_or_path", str(other), name="second")


def test_a_foreign_or_missing_model_is_refused_in_one_sentence(pretrain, root, tmp_path):
    from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(root / "tiny" / "tokenizer")
    GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=32, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="is a gpt2 model"):
        pretrain("--model_name_or_path", str(tmp_path))
    with pytest.raises(UserError, match="cannot be loaded as a language model"):
        pretrain("--model_name_or_path", str(tmp_path / "nowhere"))


def test_what_is_not_finite_stops_the_run_and_is_never_saved(pretrain, root):
    with pytest.raises(UserError, match="(loss|norm) is (nan|inf) at step .*--overwrite"):
        pretrain("--optim", "sgd", "--learning_rate", "1e30", "--max_grad_norm", "0", "--save_steps", "2", name="seen")
    assert not list((root / "tiny").rglob("seen/checkpoint-*"))


def test_a_run_does_not_go_on_with_what_would_change_its_steps(pretrain):
    whole = pretrain("--save_steps", "3", name="whole")
    (whole / "final_metrics.json").unlink()
    before = (whole / "recipe.yaml").read_text()
    for flags, words in (
        (("--learning_rate", "0.001"), "learning_rate 0.02, not 0.001"),
        (("--total_batch_size", "1024"), "tokens_per_step 512, not 1024"),
        (("--optim", "adamw_torch"), "optimizer muon, not adamw_torch"),
    ):
        with pytest.raises(UserError, match=words):
            pretrain("--save_steps", "3", *flags, name="whole")
    assert (whole / "recipe.yaml").read_text() == before


def test_overwrite_leaves_nothing_of_the_run_before(pretrain):
    first = pretrain("--save_steps", "2", "--save_total_limit", "1", name="again")
    old = (first / "checkpoint-6" / "model.safetensors").read_bytes()
    others = [first / "notes.json", first / "picture.png", first / "runs" / "kept.txt", first / "checkpoint-notes"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("not the run's")
    pretrain("--overwrite", "--max_steps", "4", "--save_steps", "2", "--save_total_limit", "1", name="again")
    assert [path.name for path in first.glob("checkpoint-[0-9]*")] == ["checkpoint-4"]
    assert [record["step"] for record in read_records(first / "metrics.jsonl") if "loss" in record] == [1, 2, 3, 4]
    assert (first / "model.safetensors").read_bytes() != old
    assert all(path.read_text() == "not the run's" for path in others)


def test_a_run_without_held_out_rows_and_with_few_records_ends_well(pretrain, tmp_path):
    few = ["--validation_fraction", "0", "--eval_strategy", "steps", "--logging_first_step", "false"]
    folder = pretrain(*few, "--logging_steps", "100", "--output_root", str(tmp_path))
    final = json.loads((folder / "final_metrics.json").read_text())
    assert final["val_loss"] is None
    assert final["loss"] > 0  # the last step is always written


def test_a_checkpoint_that_is_named_must_be_whole(pretrain, tmp_path):
    with pytest.raises(UserError, match="nowhere is not a complete checkpoint"):
        pretrain("--resume_from_checkpoint", str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--auto_find_batch_size",), "auto_find_batch_size is not supported: hfgpt plan says the largest batch"),
        (("--load_best_model_at_end",), "load_best_model_at_end is not supported"),
        (("--save_only_model",), "save_only_model is not supported"),
        (("--metric_for_best_model", "loss"), "metric_for_best_model is not supported: .*save_weights_total_limit"),
        (("--save_strategy", "best"), "save_strategy: best is not supported: .*save_weights_total_limit"),
        (("--accelerator_config", "{split_batches: true}"), "split_batches would change the rows of a step"),
        (("--accelerator_config", "{dispatch_batches: false}"), "dispatch_batches would change the rows of a step"),
        (("--accelerator_config", "{even_batches: false}"), "even_batches would change the rows of a step"),
        (("--data_seed", "3"), "data.seed"),
        (("--streaming", "--dataloader_num_workers", "2"), "dataloader_num_workers"),
        (("--streaming", "--num_train_epochs", "1"), "which a stream does not know"),
        (("--hub_strategy", "checkpoint"), "hub_strategy"),
    ],
)
def test_keys_that_would_be_ignored_are_refused(pretrain, flags, words):
    with pytest.raises(UserError, match=words):
        pretrain(*flags)


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


def test_trackers_get_losses_and_histograms(root, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = root / "tiny" / tmp_path.name
    flags = ("--max_steps", "6", "--report_to", "tensorboard", "trackio", "--log_histograms", "--logging_steps", "2")
    where = ("--output_root", root, "--output_dir", folder)
    # A process of its own: trackio takes its folder from the environment when it is imported, and TRL imports it.
    succeed("hfgpt", "pretrain", *SHAPE, *DATA, *BATCH, *QUIET, *flags, *where, TRACKIO_DIR=str(tmp_path / "trackio"))
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


def test_a_compiled_run_has_the_losses_of_an_uncompiled_one_and_compiles_once(pretrain):
    plain = losses(pretrain("--eval_steps", "3", name="plain"))
    torch.compiler.reset()
    with torch._dynamo.config.patch(error_on_recompile=True):  # new documents every step, a partial batch at the end
        compiled = losses(pretrain("--eval_steps", "3", "--torch_compile_backend", "aot_eager", name="compiled"))
    assert compiled == pytest.approx(plain, abs=1e-4)
