"""Scores during training: taken when they should be, once, and training goes on as if nothing had been measured."""

import gc
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState, TrainingArguments

from hfgpt import grpo, pretrain, sft
from hfgpt.commands import data_prepare
from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import train_tokenizer
from hfgpt.errors import UserError
from hfgpt.evals.callback import EvalTasksCallback, ScoringTimes
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.training.record import RunRecord, read_records

# Dropout: a random state that is not put back changes the next step.
SHAPE = ["--depth", "1", "--hidden_size", "64", "--vocab_size", "400", "--max_length", "64", "--hidden_dropout", "0.1"]
WORLD = ["--tinyworld_people", "20", "--tinyworld_documents", "200", "--num_proc", "1"]
WORLD += ["--tinyworld_conversations", "100", "--tinyworld_prompts", "40"]
RUN = ["--max_steps", "6", "--disable_tqdm", "--logging_steps", "1", "--sample_steps", "0", "--eval_strategy", "no"]
ROWS = ["--total_batch_size", "512", "--per_device_train_batch_size", "4"]
# Multiple choice, and answers that are generated.
TASKS = ["--eval_tasks", "tinyworld_facts_pet", "tinyworld_answers", "--eval_tasks_limit", "5"]
OFTEN = [*TASKS, "--eval_tasks_steps", "4", "--eval_tasks_tokens", "600", "1500"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """One root for all runs of this file, so that tokenizer and rows are made once."""
    folder = tmp_path_factory.mktemp("runs")
    data_prepare(["recipes/tiny.yaml", *SHAPE, *WORLD, "--output_root", str(folder)])
    return folder


def train(root: Path, stage, name: str, *flags: str) -> Path:
    """Run a stage in this process; returns its folder."""
    folder = root / "tiny" / name
    where = ["--output_root", str(root), "--output_dir", str(folder)]
    stage.main(["recipes/tiny.yaml", *SHAPE, *WORLD, *RUN, *where, *flags])
    return folder


def same_training(first: Path, second: Path) -> bool:
    """Whether losses, norms and the weights at the end are the same to the last bit."""
    weights, others = load_file(first / "model.safetensors"), load_file(second / "model.safetensors")
    names = ("step", "loss", "grad_norm", "reward")
    curves = [
        [[record.get(name) for name in names] for record in read_records(folder / "metrics.jsonl") if "loss" in record]
        for folder in (first, second)
    ]
    assert len(curves[0]) == 6 and weights.keys() == others.keys()
    return curves[0] == curves[1] and all(torch.equal(weights[name], others[name]) for name in weights)


@pytest.fixture(scope="module")
def scored(root) -> Path:
    """A pretraining of six steps, scored often, with a checkpoint after the third step."""
    flags = [*ROWS, *OFTEN, "--save_steps", "3", "--save_total_limit", "3"]
    return train(root, pretrain, "scored", *flags)


def test_pretraining_with_scores_is_bit_identical_to_one_without(root, scored):
    plain = train(root, pretrain, "plain", *ROWS, "--eval_tasks", "[]")
    assert same_training(plain, scored)


def test_it_is_scored_before_after_every_few_steps_and_at_token_counts(scored):
    records = read_records(scored / "evals.jsonl")
    # 512 tokens a step: 600 are reached by step 2, 1500 by step 3.
    assert [record["step"] for record in records] == [0, 2, 3, 4, 6]
    assert [record["tokens"] for record in records] == [0, 1024, 1536, 2048, 3072]
    assert all(set(record["results"]) == {"tinyworld_facts_pet", "tinyworld_answers"} for record in records)


def test_a_resumed_run_repeats_no_score_and_ends_with_the_same(root, scored):
    resumed = scored.with_name("resumed")
    shutil.copytree(scored, resumed)
    shutil.rmtree(resumed / "checkpoint-6")
    (resumed / "final_metrics.json").unlink()
    train(root, pretrain, "resumed", *ROWS, *OFTEN, "--save_steps", "3", "--save_total_limit", "3")
    assert read_records(resumed / "evals.jsonl") == read_records(scored / "evals.jsonl")
    assert same_training(resumed, scored)


@pytest.mark.slow
def test_sft_and_grpo_with_scores_are_bit_identical_to_those_without(root, scored):
    """GRPO draws its answers from the random state that scoring must leave alone."""
    start = ["--model_name_or_path", str(scored), "--per_device_train_batch_size", "8"]
    for stage, extra in (
        (sft, []),
        (grpo, ["--num_generations", "4", "--max_completion_length", "8", "--learning_rate", "0.01"]),
    ):
        name = stage.STAGE
        with_scores = train(root, stage, f"{name}-scored", *start, *extra, *TASKS, "--eval_tasks_steps", "2")
        plain = train(root, stage, f"{name}-plain", *start, *extra, "--eval_tasks", "[]")
        assert same_training(plain, with_scores)
        records = read_records(with_scores / "evals.jsonl")
        steps = [record["step"] for record in records if "tinyworld_answers" in record["results"]]
        assert steps == [0, 2, 4, 6]
        tokens = [record["tokens"] for record in records]
        assert tokens == sorted(tokens) and tokens[0] == 0 < tokens[-1]
        if stage is grpo:  # pass@k goes by the same times, and by what TRL counted
            assert [record["step"] for record in records if "pass_at_k" in record["results"]] == steps
            logged = {record["step"]: record["tokens"] for record in read_records(with_scores / "metrics.jsonl")}
            assert [record["tokens"] for record in records if record["step"]] == [
                logged[record["step"]] for record in records if record["step"]
            ]


@pytest.mark.parametrize(
    ("times", "steps"),
    [
        (ScoringTimes(), [10]),
        (ScoringTimes(every_steps=4), [4, 8, 10]),
        (ScoringTimes(at_tokens=[250, 300, 301, 5000]), [3, 4, 10]),
        (ScoringTimes(every_steps=3, at_tokens=[600]), [3, 6, 9, 10]),
    ],
)
def test_the_steps_that_are_scored(times, steps):
    tokens_of = [100 * step for step in range(11)]
    due = [step for step in range(1, 11) if times.is_due(step, 10, tokens_of[step - 1], tokens_of[step])]
    assert due == steps


def test_scoring_leaves_no_tensor_behind(tmp_path):
    world = TinyWorld(12, 3)
    tokenizer = train_tokenizer(world.documents(100), vocab_size=400)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64}
    model = GPTForCausalLM(GPTConfig(vocab_size=len(tokenizer), **shape))
    record = RunRecord(tmp_path, tokens_per_step=8, flops_per_token=1, rows_per_epoch=None, rows_per_step=1)
    callback = EvalTasksCallback(
        tokenizer,
        ["tinyworld_facts_pet", "tinyworld_answers"],
        tmp_path,
        record,
        ScoringTimes(),
        limit=2,
        metadata={"tinyworld_people": 12, "seed": 3},
    )
    args, state, control = TrainingArguments(tmp_path, use_cpu=True), TrainerState(), TrainerControl()
    counts = []
    for _ in range(3):
        callback.on_train_begin(args, state, control, model=model)
        gc.collect()
        counts.append(sum(isinstance(thing, torch.Tensor) for thing in gc.get_objects()))
    assert counts[0] == counts[1] == counts[2]
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("flags", "key"),
    [
        (["--eval_tasks_steps", "-1"], "eval_tasks_steps must be 0 or more, not -1"),
        (["--eval_tasks_tokens", "100", "0"], "eval_tasks_tokens must be above zero, not 0"),
        (["--eval_tasks_limit", "0"], "eval_tasks_limit must be above zero, not 0"),
        (["--eval_tasks_batch_size", "0"], "eval_tasks_batch_size must be above zero, not 0"),
    ],
)
def test_times_that_cannot_be_are_refused_with_their_flag(flags, key):
    with pytest.raises(UserError, match=f"^flag {flags[0]} .*{key}$"):
        pretrain.main(["recipes/tiny.yaml", *flags])


def test_what_is_written_is_one_line_of_json_a_time(scored):
    lines = (scored / "evals.jsonl").read_text().splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"step", "tokens", "results"}] * 5
