import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import train_tokenizer
from hfgpt.errors import UserError
from hfgpt.evals import harness
from hfgpt.evals.harness import evaluate_tasks
from hfgpt.evals.language_model import CPU_TOKENS, MOST_ROWS, InMemoryModel
from hfgpt.model import GPTConfig, GPTForCausalLM

WORLD = {"tinyworld_people": 12, "seed": 3}
TASKS = Path(harness.__file__).parent / "tinyworld"


@pytest.fixture(scope="module")
def world() -> TinyWorld:
    return TinyWorld(num_people=12, seed=3)


@pytest.fixture(scope="module")
def tokenizer(world):
    return train_tokenizer(world.documents(100), vocab_size=400)  # small, so that answers have one to four tokens


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=64,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
        hidden_dropout=0.1,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPTForCausalLM(config)


@pytest.fixture
def saved(model, tokenizer, tmp_path) -> Path:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@torch.no_grad()
def accuracy_by_hand(model, tokenizer, questions) -> float:
    """The share of questions whose true choice has the largest summed log-probability after BOS and the context."""
    right = 0
    for question in questions:
        context = tokenizer(question["context"]).input_ids
        sums = []
        for choice in question["choices"]:
            ids = tokenizer(question["context"] + choice).input_ids
            assert ids[: len(context)] == context and ids.count(tokenizer.bos_token_id) == 1
            log_probabilities = model.eval()(torch.tensor([ids])).logits[0].log_softmax(-1)
            sums.append(sum(log_probabilities[i - 1, ids[i]].item() for i in range(len(context), len(ids))))
        right += int(np.argmax(sums)) == question["answer_index"]
    return right / len(questions)


def test_scores_are_those_of_a_hand_count(model, tokenizer, world):
    scores = evaluate_tasks(model, tokenizer, ["tinyworld"], metadata=WORLD, batch_size=16)
    questions = world.questions()
    for attribute in ("home", "trade", "pet", "food"):
        asked = [question for question in questions if question["attribute"] == attribute]
        score = scores[f"tinyworld_facts_{attribute}"]["acc"]
        assert score == pytest.approx(accuracy_by_hand(model, tokenizer, asked), abs=1e-9)
    by_hand = accuracy_by_hand(model, tokenizer, questions)
    assert scores["tinyworld_facts"]["acc"] == pytest.approx(by_hand, abs=1e-9)
    assert 0 < by_hand < 0.4
    sums = world.sum_questions()
    assert scores["tinyworld_sums"]["acc"] == pytest.approx(accuracy_by_hand(model, tokenizer, sums), abs=1e-9)
    share = scores["tinyworld_sums"]["acc"]
    assert scores["tinyworld_sums"]["stderr"] == pytest.approx((share * (1 - share) / (len(sums) - 1)) ** 0.5)


def test_a_model_that_was_taught_the_answers_scores_one(model, tokenizer, world):
    questions = world.questions()
    texts = [question["context"] + question["choices"][question["answer_index"]] for question in questions]
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="right")
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(120):
        model(input_ids=batch.input_ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    scores = evaluate_tasks(model, tokenizer, ["tinyworld_facts"], metadata=WORLD)
    assert scores["tinyworld_facts"]["acc"] > 0.95
    assert scores["tinyworld_facts"]["stderr"] < 0.03


def test_every_question_reaches_the_model_with_exactly_one_bos(model, tokenizer):
    rows = []
    handle = model.register_forward_pre_hook(lambda module, args, kwargs: rows.extend(args[0]), with_kwargs=True)
    # One at a time: lm-eval fills shorter rows of a batch up with zeros, which is the id of our BOS.
    evaluate_tasks(model, tokenizer, ["tinyworld_facts"], metadata=WORLD, batch_size=1)
    handle.remove()
    assert len(rows) >= 48
    assert all(row[0] == tokenizer.bos_token_id for row in rows)
    assert all((row == tokenizer.bos_token_id).sum() == 1 for row in rows)


def test_nothing_changes_for_the_run_around_it(model, tokenizer, capfd):
    model.train()
    model.model.layers[0].eval()  # as a frozen part would be
    modes = [module.training for module in model.modules()]
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    expected = torch.rand(3).tolist(), random.random(), np.random.rand()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    evaluate_tasks(model, tokenizer, ["tinyworld_facts"], metadata=WORLD, limit=2)
    assert (torch.rand(3).tolist(), random.random(), np.random.rand()) == expected
    assert [module.training for module in model.modules()] == modes
    assert all(parameter.grad is None for parameter in model.parameters())
    assert capfd.readouterr() == ("", "")


def test_as_many_questions_at_a_time_as_fit_are_asked_where_no_number_is_given(model, tokenizer):
    shapes = []
    handle = model.register_forward_pre_hook(lambda module, args: shapes.append(args[0].shape))
    world = {"tinyworld_people": 60, "seed": 3}
    scores = evaluate_tasks(model, tokenizer, ["tinyworld_facts"], metadata=world, batch_size=None)
    handle.remove()
    assert sum(rows for rows, _ in shapes) >= 2000
    assert all(rows * length <= CPU_TOKENS and rows <= MOST_ROWS for rows, length in shapes)
    assert all(rows == min(CPU_TOKENS // (length + 1), MOST_ROWS) for rows, length in shapes[:-1])
    assert scores == evaluate_tasks(model, tokenizer, ["tinyworld_facts"], metadata=world, batch_size=16)


def test_limit_counts_questions_of_each_task(model, tokenizer):
    scores = evaluate_tasks(model, tokenizer, ["tinyworld_facts_pet"], metadata=WORLD, limit=4)
    assert list(scores) == ["tinyworld_facts_pet"]
    assert scores["tinyworld_facts_pet"]["acc"] in (0.0, 0.25, 0.5, 0.75, 1.0)


def test_a_task_of_the_callers_own_folder_is_found(model, tokenizer, tmp_path):
    data = tmp_path / "questions.jsonl"
    data.write_text(json.dumps({"text": "2 + 2 =", "options": [" 4", " 5"], "answer": 0}) + "\n")
    task = {
        "task": "mine",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{text}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (tmp_path / "mine.yaml").write_text(json.dumps(task))
    scores = evaluate_tasks(model, tokenizer, ["mine"], include_path=tmp_path)
    assert set(scores["mine"]) == {"acc", "acc_norm"}  # one question has no standard error
    assert scores["mine"]["acc"] in (0.0, 1.0)


@pytest.mark.slow  # lm-eval's thousands of tasks are indexed before it can be said
def test_an_unknown_task_is_refused_in_one_sentence(model, tokenizer):
    with pytest.raises(UserError, match="No evaluation task is called tinyworlds"):
        evaluate_tasks(model, tokenizer, ["tinyworlds"])


@pytest.mark.slow
def test_two_processes_share_the_questions_and_both_get_the_scores_of_one(model, tokenizer, saved, tmp_path):
    script = tmp_path / "evaluate.py"
    script.write_text(
        "import json, sys, torch\n"
        "from transformers import AutoTokenizer\n"
        "from hfgpt.model import GPTForCausalLM\n"
        "from hfgpt.evals.harness import evaluate_tasks\n"
        "torch.set_num_threads(1)\n"
        "torch.distributed.init_process_group('gloo')\n"
        "model, forwards = GPTForCausalLM.from_pretrained(sys.argv[1]), []\n"
        "model.register_forward_hook(lambda *_: forwards.append(1))\n"
        "tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])\n"
        f"scores = evaluate_tasks(model, tokenizer, ['tinyworld_facts_home'], metadata={WORLD}, batch_size=1)\n"
        "rank = torch.distributed.get_rank()\n"
        "json.dump([scores, len(forwards)], open(f'{sys.argv[2]}/{rank}.json', 'w'))\n"
        "torch.distributed.destroy_process_group()\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(saved), str(tmp_path)], check=True, env=environment, timeout=240)
    forwards = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    alone = evaluate_tasks(model, tokenizer, ["tinyworld_facts_home"], metadata=WORLD, batch_size=1)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first[0] == second[0] == {name: pytest.approx(score) for name, score in alone.items()}
    assert max(first[1], second[1]) < 0.7 * len(forwards)


@pytest.mark.slow
def test_lm_evals_own_command_gives_the_same_scores(model, tokenizer, saved, tmp_path):
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "16"]
    command += ["--model_args", f"pretrained={saved},trust_remote_code=True", "--tasks", "tinyworld"]
    command += ["--include_path", str(TASKS), "--metadata", json.dumps(WORLD), "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    subprocess.run(command, check=True, env=environment, timeout=240)
    (written,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(written.read_text())["results"]
    ours = evaluate_tasks(model, tokenizer, ["tinyworld"], metadata=WORLD, batch_size=16)
    assert set(ours) == {"tinyworld_facts", "tinyworld_sums"} | {
        f"tinyworld_facts_{attribute}" for attribute in ("home", "trade", "pet", "food")
    }
    for task, score in ours.items():
        assert theirs[task]["acc,none"] == pytest.approx(score["acc"], abs=1e-9)
        assert theirs[task]["acc_stderr,none"] == pytest.approx(score["stderr"], abs=1e-9)


@torch.no_grad()
def test_answers_of_a_bfloat16_model_are_weighed_in_float32(model, tokenizer):
    model = model.to(torch.bfloat16).eval()
    context, answer = tokenizer("Who lives in the town?")["input_ids"], tokenizer("Somebody does.")["input_ids"]
    ids = torch.tensor([context + answer])
    log_probabilities = model(ids).logits.float().log_softmax(-1)[0, len(context) - 1 : -1]
    by_hand = log_probabilities.gather(1, ids[0, len(context) :, None]).sum().item()
    ((scored, _),) = InMemoryModel(model, tokenizer, 1)._loglikelihood_tokens([(("", ""), context, answer)])
    assert abs(scored - by_hand) < 1e-4
    in_bfloat16 = model(ids).logits.log_softmax(-1)[0, len(context) - 1 : -1]
    assert abs(in_bfloat16.gather(1, ids[0, len(context) :, None]).sum().item() - by_hand) > 1e-3
