"""Questions planted in the training data of every stage are found, each where it was planted, and no other is."""

import json
from pathlib import Path

import pytest
import yaml
from commands import sentence_of_failure, succeed
from datasets import load_from_disk

from hfgpt import dpo, grpo, midtrain, pretrain, sft
from hfgpt.data.tinyworld import TinyWorld
from hfgpt.errors import UserError
from hfgpt.evals import leakage
from hfgpt.evals.leakage import measure_leakage

WORLD = TinyWorld(12, 3)
FACTS = [question for question in WORLD.questions() if question["attribute"] == "pet"]
ANSWERS = WORLD.chat_questions(WORLD.conversation_people)
SUMS = WORLD.chat_sum_questions()
TASKS = ["tinyworld_facts_pet", "tinyworld_facts_food", "tinyworld_answers", "tinyworld_chat_sums"]
# Words of which no question of the tiny world is made.
FILLER = (
    "Granite cliffs stood above grey water while seven gulls wheeled slowly round an old broken lighthouse tower. "
)
STEPS = {
    "max_steps": 1,
    "per_device_train_batch_size": 2,
    "eval_strategy": "no",
    "sample_steps": 0,
    "sample_max_new_tokens": 1,
    "validation_fraction": 0,
    "disable_tqdm": True,
}


def true_sentence(question: dict) -> str:
    return question["context"] + question["choices"][question["answer_index"]]


def asked(question: dict) -> list[dict]:
    return [{"role": "user", "content": question["question"]}]


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def write_rows(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A run of all five stages, one step each; what is planted in which is written beside it."""
    root = tmp_path_factory.mktemp("leakage")
    filler = [{"messages": [*asked({"question": FILLER}), *said(FILLER)]}] * 40
    texts = [FILLER * 30 for _ in range(40)]
    texts[3] += true_sentence(FACTS[0])
    texts[11] = f"{true_sentence(FACTS[1]).upper()}! {FILLER}"
    # Without their answers: eight words of a question are enough, fewer are not.
    texts[12] += f"{FACTS[2]['context']} nothing. {ANSWERS[3]['question']}"
    wrong = next(c for i, c in enumerate(FACTS[4]["choices"]) if i != FACTS[4]["answer_index"])
    texts[13] += FACTS[4]["context"] + wrong
    chats = filler + [{"messages": asked(ANSWERS[0]) + said(ANSWERS[0]["answer"])}]
    tuned = filler + [{"messages": asked(q) + said(q["answer"])} for q in (ANSWERS[1], SUMS[0])]
    pairs = [
        {"prompt": asked({"question": f"{FILLER} {i}"}), "chosen": said("one"), "rejected": said("two")}
        for i in range(20)
    ]
    pairs.append(
        {"prompt": asked(ANSWERS[2]), "chosen": said("I do not know."), "rejected": said(ANSWERS[2]["answer"])}
    )
    prompts = [{"question": f"{FILLER} {i}", "answer": str(i)} for i in range(20)]
    prompts.append({"question": SUMS[1]["question"], "answer": SUMS[1]["answer"]})
    recipe = {
        "model": {"depth": 1, "hidden_size": 64},
        "tokenizer": {"vocab_size": 400},
        "data": {
            "data_path": write_rows(root / "texts.jsonl", [{"text": text} for text in texts]),
            "max_length": 256,
            "validation_fraction": 0,
            "num_proc": 1,
            "tinyworld_people": 12,
            "seed": 3,
        },
        "pretrain": {**STEPS, "total_batch_size": 512, "eval_tasks": TASKS[:2], "eval_tasks_limit": 1},
        "midtrain": {
            **STEPS,
            "total_batch_size": 512,
            "mixture": [
                {"data_path": str(root / "texts.jsonl"), "weight": 0.5, "validation_fraction": 0},
                {
                    **{"data_path": write_rows(root / "chats.jsonl", chats), "weight": 0.5},
                    **{"content": "chat", "validation_fraction": 0},
                },
            ],
        },
        "sft": {**STEPS, "data_path": write_rows(root / "tuned.jsonl", tuned)},
        "dpo": {**STEPS, "data_path": write_rows(root / "pairs.jsonl", pairs)},
        "grpo": {
            **STEPS,
            "data_path": write_rows(root / "prompts.jsonl", prompts),
            "num_generations": 2,
            "max_completion_length": 8,
        },
    }
    for stage in ("pretrain", "midtrain"):
        del recipe[stage]["validation_fraction"]
    (root / "planted.yaml").write_text(yaml.safe_dump(recipe))
    for stage in (pretrain, midtrain, sft, dpo, grpo):
        stage.main([str(root / "planted.yaml"), "--output_root", str(root)])
    return root / "planted"


@pytest.fixture(scope="module")
def measured(run_folder) -> dict:
    return measure_leakage(run_folder, TASKS, num_proc=1)


def test_every_planted_question_is_counted_in_its_task_and_stage_and_no_other(measured):
    counts = {name: (task["questions"], task["overlapping"]) for name, task in measured["tasks"].items()}
    assert counts == {
        "tinyworld_facts_pet": (12, 3),
        "tinyworld_facts_food": (12, 0),
        "tinyworld_answers": (len(ANSWERS), 3),
        "tinyworld_chat_sums": (121, 2),
    }
    by_stage = {name: list(task["stages"].values()) for name, task in measured["tasks"].items()}
    assert by_stage["tinyworld_facts_pet"] == [3, 3, 0, 0, 0]  # midtraining reads the texts again
    assert by_stage["tinyworld_answers"] == [0, 1, 1, 1, 0]
    assert by_stage["tinyworld_chat_sums"] == [0, 0, 1, 0, 1]
    assert measured["n"] == 13


def test_examples_show_the_question_and_where_it_was_found(measured):
    first, second, _ = measured["tasks"]["tinyworld_facts_pet"]["examples"]
    assert first["question"] == FACTS[0]["context"] and first["stage"] == "pretrain"
    assert "loran stoneland s best companion is a ferret granite cliffs" in second["text"]


def test_all_that_a_stage_had_to_train_on_is_read(measured, run_folder):
    rows = json.loads((run_folder.parent / "texts.jsonl").read_text().splitlines()[0])
    words = 40 * len(rows["text"].split())
    assert measured["words"]["pretrain"] == pytest.approx(words, rel=0.05)  # rows that are not full are left out
    assert measured["words"]["midtrain"] > measured["words"]["pretrain"]


def test_processes_find_what_one_finds(measured, run_folder, monkeypatch):
    monkeypatch.setattr(leakage, "ALONE_SECONDS", 0)
    assert measure_leakage(run_folder, TASKS, num_proc=2) == measured


def test_the_command_takes_the_recipes_tasks_and_writes_the_report(run_folder):
    printed = succeed("hfgpt", "leakage", run_folder, "--num_proc", "1").stdout
    written = json.loads((run_folder / "report" / "leakage.json").read_text())
    assert list(written["tasks"]) == TASKS[:2]
    row = next(line for line in printed.splitlines() if "tinyworld_facts_pet" in line)
    assert [cell.strip() for cell in row.strip("|").split("|")][1:3] == ["12", "3"]


def test_a_stream_is_read_as_far_as_training_read_it(run_folder):
    flags = ["--data.streaming", "--shard_size", "4096", "--output_dir", str(run_folder.parent / "streamed/pretrain")]
    recipe = str(run_folder.parent / "planted.yaml")
    pretrain.main([recipe, "--output_root", str(run_folder.parent), *flags, "--max_steps", "8"])
    found = measure_leakage(run_folder.parent / "streamed", TASKS[:1], num_proc=1)
    rows = 8 * 512 / 256
    prepared = measure_leakage(run_folder, TASKS[:1], num_proc=1)["words"]["pretrain"]
    key = json.loads((run_folder / "pretrain" / "identity.json").read_text())["rows"]
    words_of_a_row = prepared / len(load_from_disk(run_folder / "data" / key / "train"))
    assert found["words"]["pretrain"] == pytest.approx(rows * words_of_a_row, rel=0.1)


def test_what_cannot_be_measured_is_refused_in_one_sentence(run_folder, tmp_path):
    assert "holds no complete stage" in sentence_of_failure("hfgpt", "leakage", tmp_path)
    with pytest.raises(UserError, match="No evaluation task is called|names no eval_tasks"):
        measure_leakage(run_folder, [])


def test_searching_processes_load_neither_torch_nor_lm_eval():
    code = "import sys, hfgpt.evals.leakage; print({'torch', 'lm_eval', 'transformers'} & set(sys.modules))"
    assert succeed("python", "-c", code).stdout == "set()\n"


@pytest.mark.slow
def test_nothing_that_the_tiny_run_read_gives_its_held_out_answers_away(tiny_run):
    folder, _ = tiny_run
    found = measure_leakage(folder)
    assert set(found["words"]) == {"pretrain", "midtrain", "sft", "dpo", "grpo"}
    assert found["words"]["pretrain"] > 500_000
    tasks = found["tasks"]
    assert all(task["stages"]["pretrain"] == 0 for task in tasks.values())
    for name in ("tinyworld_answers", "tinyworld_answers_new_people", "tinyworld_chat_sums"):
        assert tasks[name]["questions"] >= 40 and tasks[name]["overlapping"] == 0
    # A question of a conversation and its answer, read on, are now and then a sentence of the evaluation.
    facts = [task for name, task in tasks.items() if name.startswith("tinyworld_facts_")]
    assert sum(task["overlapping"] for task in facts) < 0.05 * sum(task["questions"] for task in facts)
