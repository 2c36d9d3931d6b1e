"""Scores during training over two gloo processes, DDP and FSDP2: those of one process, also where answers are
generated from sharded weights, and without a trace in the training."""

from pathlib import Path

import pytest
import torch
from commands import REPOSITORY, succeed
from safetensors.torch import load_file

from hfgpt.commands import data_prepare
from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import load_tokenizer
from hfgpt.model import GPTConfig, GPTForCausalLM
from hfgpt.training.record import read_records

pytestmark = pytest.mark.slow

CONFIGS = REPOSITORY / "accelerate_configs"
ON_CPU = REPOSITORY / "tests" / "distributed" / "fsdp2_on_cpu.py"
WORLD = ["--tinyworld_people", "12", "--data.seed", "3", "--tinyworld_documents", "200", "--num_proc", "1"]
SHAPE = ["--vocab_size", "400", "--max_length", "64"]
RUN = ["--max_steps", "2", "--total_batch_size", "512", "--per_device_train_batch_size", "4", "--sample_steps", "0"]
RUN += ["--disable_tqdm", "--logging_steps", "1", "--eval_strategy", "no", "--rate_scale", "0.001"]
# 9 questions each: the two processes get five and four.
TASKS = ["--eval_tasks", "tinyworld_answers", "tinyworld_facts_pet", "--eval_tasks_limit", "9"]
TASKS += ["--eval_tasks_steps", "1", "--eval_tasks_batch_size", "2"]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Tokenizer, rows, and in `taught` a model that answers some of the questions right and some wrong."""
    folder = tmp_path_factory.mktemp("runs")
    data_prepare(["recipes/tiny.yaml", *SHAPE, *WORLD, "--output_root", str(folder)])
    tokenizer = load_tokenizer(folder / "tiny" / "tokenizer")
    questions = TinyWorld(12, 3).chat_questions(TinyWorld(12, 3).conversation_people)[:9]
    conversations = []
    for number, question in enumerate(questions):
        answer = question["full"][question["values"].index(question["answer"])]
        said = answer if number % 3 else "I do not know that, and I am not sure who does."
        messages = [{"role": "user", "content": question["question"]}, {"role": "assistant", "content": said}]
        conversations.append(tokenizer.apply_chat_template(messages, tokenize=False))
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64}
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "pad_token_id", "eos_token_id")}
    model = GPTForCausalLM(GPTConfig(vocab_size=len(tokenizer), hidden_dropout=0.1, **shape, **ids))
    batch = tokenizer(conversations, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        model(input_ids=batch.input_ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder / "taught")
    tokenizer.save_pretrained(folder / "taught")
    return folder


def pretrain(root: Path, name: str, *flags: str, config: str | None = None) -> Path:
    """Go on from the taught model, in one process or as an accelerate config says; returns the stage's folder."""
    folder = root / "tiny" / name
    command: list[str | Path] = ["hfgpt", "pretrain"]
    if config is not None:
        command = ["accelerate", "launch", "--config_file", CONFIGS / config, "--main_process_port", "0"]
        command += ["--num_processes", "2", ON_CPU, "pretrain"] if "fsdp2" in config else ["hfgpt/pretrain.py"]
    where = ["--output_root", root, "--output_dir", folder, "--model_name_or_path", root / "taught"]
    device = [] if config == "cpu_ddp.yaml" else ["--use_cpu"]  # that config says so
    words = [*command, "recipes/tiny.yaml", *SHAPE, *WORLD, *RUN, *device, *where, *flags]
    succeed(*words, OMP_NUM_THREADS="1")
    return folder


@pytest.fixture(scope="module")
def in_one_process(root) -> list[dict]:
    return read_records(pretrain(root, "one", *TASKS) / "evals.jsonl")


@pytest.mark.parametrize("config", ["cpu_ddp.yaml", "fsdp2.yaml"])
def test_two_processes_score_as_one_does_and_train_as_if_they_had_not(root, in_one_process, config):
    assert [record["step"] for record in in_one_process] == [0, 1, 2]
    right = in_one_process[0]["results"]["tinyworld_answers"]["acc"]
    assert 0.5 < right < 0.8  # the taught model is right about six of nine
    scored = pretrain(root, f"scored-{config}", *TASKS, config=config)
    records = read_records(scored / "evals.jsonl")
    assert [(record["step"], record["tokens"]) for record in records] == [(0, 0), (1, 512), (2, 1024)]
    for record, alone in zip(records, in_one_process, strict=True):
        assert record["results"].keys() == alone["results"].keys()
        for task, scores in alone["results"].items():
            assert record["results"][task] == pytest.approx(scores, rel=1e-9)  # sums in another order
    plain = pretrain(root, f"plain-{config}", "--eval_tasks", "[]", config=config)
    curves = [
        [(r["loss"], r["grad_norm"]) for r in read_records(folder / "metrics.jsonl") if "loss" in r]
        for folder in (scored, plain)
    ]
    assert len(curves[0]) == 2 and curves[0] == curves[1]
    first, second = load_file(scored / "model.safetensors"), load_file(plain / "model.safetensors")
    assert all(torch.equal(first[name], second[name]) for name in first)
