import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from hfgpt.data.tinyworld import TinyWorld
from hfgpt.data.tokenizer import train_tokenizer
from hfgpt.errors import UserError
from hfgpt.evals import harness
from hfgpt.evals.harness import evaluate_tasks
from hfgpt.evals.tinyworld import utils
from hfgpt.model import GPTConfig, GPTForCausalLM

WORLD = {"tinyworld_people": 20, "seed": 3}
TASKS = Path(harness.__file__).parent / "tinyworld"


@pytest.fixture(scope="module")
def world() -> TinyWorld:
    return TinyWorld(num_people=20, seed=3)


@pytest.fixture(scope="module")
def tokenizer(world):
    return train_tokenizer(world.documents(400), vocab_size=1200)  # large enough to answer in 32 tokens


@pytest.fixture
def model(tokenizer):
    torch.manual_seed(0)
    config = GPTConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=96,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return GPTForCausalLM(config)


def teach(model, tokenizer, texts: list[str]) -> None:
    """Overfits the model on whole texts."""
    options = {"add_special_tokens": False, "padding": True, "padding_side": "right", "return_tensors": "pt"}
    batch = tokenizer(texts, truncation=True, max_length=model.config.max_position_embeddings, **options)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(150):
        model(input_ids=batch.input_ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def dialogue(tokenizer, question: str, answer: str, ends: bool = True) -> str:
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], tokenize=False, add_generation_prompt=True
    )
    return asked + answer + ("<|end|>" if ends else "")


def answers_to(row: dict) -> tuple[str, str, str]:
    """The right brief answer, the right full one, and a wrong full one."""
    index = row["values"].index(row["answer"])
    return row["brief"][index], row["full"][index], row["full"][index - 1]


FACT = {
    "answer": "cat",
    "values": ["cat", "dog"],
    "brief": ["A cat.", "A dog."],
    "full": ["The pet of Ann is a cat.", "The pet of Ann is a dog."],
}
SUM = {"answer": "12", "brief": ["Twelve.", "Thirteen."], "full": ["The sum is twelve.", "The sum is thirteen."]}


@pytest.mark.parametrize(
    ("grade", "doc", "answer", "exact_match", "acc", "form", "preferred"),
    [
        (utils.grade_fact, FACT, "A cat.", 1, 1, 1, 0),
        (utils.grade_fact, FACT, "The pet of Ann is a cat.", 1, 1, 1, 1),
        (utils.grade_fact, FACT, "The pet of Ann is a dog.", 0, 0, 1, 1),
        (utils.grade_fact, FACT, "A dog.", 0, 0, 1, 0),
        (utils.grade_fact, FACT, "The pet of Bob is a cat.", 0, 1, 0, 0),
        (utils.grade_fact, FACT, "Cat", 0, 1, 0, 0),
        (utils.grade_fact, FACT, "A cat. Or a dog.", 0, 0, 0, 0),
        (utils.grade_fact, FACT, "A cat. A cat. A cat.", 0, 1, 0, 0),
        (utils.grade_fact, FACT, "cats and catalogues", 0, 0, 0, 0),
        (utils.grade_fact, FACT, "", 0, 0, 0, 0),
        (utils.grade_sum, SUM, "Twelve.", 1, 1, 1, 0),
        (utils.grade_sum, SUM, "The sum is twelve.", 1, 1, 1, 1),
        (utils.grade_sum, SUM, "The sum is thirteen.", 0, 0, 1, 1),
        (utils.grade_sum, SUM, "12.", 0, 1, 0, 0),  # asked in words
        (utils.grade_sum, SUM, "Five plus seven makes twelve.", 0, 1, 0, 0),
        (utils.grade_sum, SUM, "The sum is twelve. The sum is thirteen.", 0, 0, 0, 0),
    ],
)
def test_an_answer_is_graded_for_truth_and_for_form(grade, doc, answer, exact_match, acc, form, preferred):
    expected = {"exact_match": exact_match, "acc": acc, "form": form, "preferred": preferred}
    assert grade(doc, [answer]) == expected


def test_each_kind_of_answer_counts_as_what_it_is(model, tokenizer, world):
    """A model taught to answer in turn briefly, fully, wrongly, and rightly without ever stopping."""
    known, new = (world.chat_questions(people) for people in (world.conversation_people, world.new_people))
    texts = []
    for i, row in enumerate(known):
        brief, full, wrong = answers_to(row)
        answer = (brief, full, wrong, f"{full} " * 8)[i % 4]
        texts.append(dialogue(tokenizer, row["question"], answer, ends=i % 4 != 3))
    texts += [dialogue(tokenizer, row["question"], answers_to(row)[1]) for row in new]
    teach(model, tokenizer, texts)
    scores = evaluate_tasks(model, tokenizer, ["tinyworld_chat"], metadata=WORLD, batch_size=8)
    assert set(scores) == {"tinyworld_chat"} | {
        f"tinyworld_{task}" for task in ("answers", "answers_new_people", "chat_sums")
    }
    answers = scores["tinyworld_answers"]  # of ten: 3 brief, 3 full, 2 wrong, 2 endless
    assert answers["exact_match"] == pytest.approx(0.6)
    assert answers["acc"] == pytest.approx(0.8)
    assert answers["form"] == pytest.approx(0.8)
    assert answers["preferred"] == pytest.approx(0.5)
    assert answers["acc_stderr"] == pytest.approx((0.8 * 0.2 / 9) ** 0.5)
    assert answers["stderr"] == pytest.approx((0.6 * 0.4 / 9) ** 0.5)
    new_people = scores["tinyworld_answers_new_people"]
    assert new_people["exact_match"] == new_people["preferred"] == 1.0
    sums = scores["tinyworld_chat_sums"]
    asked = {"tinyworld_answers": 10, "tinyworld_answers_new_people": 10, "tinyworld_chat_sums": 121}
    for metric in ("form", "preferred"):
        mean = sum(scores[task][metric] * count for task, count in asked.items()) / 141
        assert scores["tinyworld_chat"][metric] == pytest.approx(mean)
    assert sums["exact_match"] <= sums["form"]


def test_a_model_that_never_saw_a_chat_has_no_form(model, tokenizer, world):
    teach(model, tokenizer, list(world.documents(12)))
    scores = evaluate_tasks(model, tokenizer, ["tinyworld_chat"], metadata=WORLD)
    assert scores["tinyworld_chat"]["form"] == 0.0
    assert scores["tinyworld_chat"]["preferred"] == 0.0


def test_chat_tasks_get_the_template_with_one_bos_and_others_of_the_same_call_do_not(model, tokenizer, world):
    rows = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.extend((args or (kwargs["input_ids"],))[0].tolist()), with_kwargs=True
    )
    tasks = ["tinyworld_answers", "tinyworld_facts_home"]
    together = evaluate_tasks(model, tokenizer, tasks, metadata=WORLD, batch_size=1)
    handle.remove()
    whole = [row for row in rows if len(row) > 4]  # without the single tokens that generation adds
    chats = [row for row in whole if tokenizer.convert_tokens_to_ids("<|user|>") in row]
    assert len(chats) == 10
    for row in whole:
        assert row[0] == tokenizer.bos_token_id and row.count(tokenizer.bos_token_id) == 1
    expected = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["question"]}], add_generation_prompt=True, return_dict=False
        )
        for row in world.chat_questions(world.conversation_people)
    ]
    assert sorted(chats) == sorted(expected)
    alone = evaluate_tasks(model, tokenizer, ["tinyworld_facts_home"], metadata=WORLD, batch_size=1)
    assert together["tinyworld_facts_home"] == alone["tinyworld_facts_home"]


def test_a_tokenizer_without_a_chat_template_is_refused_in_one_sentence(model, tokenizer):
    template, tokenizer.chat_template = tokenizer.chat_template, None
    try:
        with pytest.raises(UserError, match="no chat template to ask tinyworld_answers with"):
            evaluate_tasks(model, tokenizer, ["tinyworld_answers"], metadata=WORLD)
    finally:
        tokenizer.chat_template = template


def test_a_world_without_new_people_says_so(model, tokenizer):
    with pytest.raises(UserError, match="tinyworld_people is 10: .* no new people"):
        evaluate_tasks(model, tokenizer, ["tinyworld_answers_new_people"], metadata={"tinyworld_people": 10})


@pytest.mark.slow
def test_lm_evals_own_command_gives_the_same_scores(model, tokenizer, world, tmp_path):
    rows = world.chat_questions(world.people)
    teach(
        model, tokenizer, [dialogue(tokenizer, row["question"], answers_to(row)[i % 3]) for i, row in enumerate(rows)]
    )
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    command = [sys.executable, "-m", "lm_eval", "--model", "hf", "--device", "cpu", "--batch_size", "16"]
    command += ["--model_args", f"pretrained={tmp_path / 'model'},trust_remote_code=True"]
    command += ["--tasks", "tinyworld_chat", "--include_path", str(TASKS), "--apply_chat_template"]
    command += ["--metadata", json.dumps(WORLD), "--output_path", str(tmp_path / "out")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    subprocess.run(command, check=True, env=environment, timeout=240)
    (written,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(written.read_text())["results"]
    ours = evaluate_tasks(model, tokenizer, ["tinyworld_chat"], metadata=WORLD, batch_size=16)
    assert 0.5 < ours["tinyworld_answers"]["exact_match"] < 0.9
    for task, score in ours.items():
        for metric in set(score) & {"exact_match", "acc", "form", "preferred"}:
            assert theirs[task][f"{metric},none"] == pytest.approx(score[metric], abs=1e-9)
