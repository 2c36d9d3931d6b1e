import json

import pytest

from hfgpt.arguments import DataArguments
from hfgpt.data.tinyworld import TinyWorld
from hfgpt.evals.ngrams import words_of
from hfgpt.evals.questions import Question, questions_of, task_metadata, tasks_by_name

WORLD = {"tinyworld_people": 12, "seed": 3}


def test_a_multiple_choice_question_comes_with_its_right_answer():
    (task,) = tasks_by_name(["tinyworld_facts_pet"], WORLD).values()
    asked = [question for question in TinyWorld(12, 3).questions() if question["attribute"] == "pet"]
    assert list(questions_of(task)) == [
        Question(question["context"], question["choices"][question["answer_index"]]) for question in asked
    ]


def test_a_group_brings_its_tasks_and_a_chat_question_its_answer():
    tasks = tasks_by_name(["tinyworld_chat", "tinyworld_sums"], WORLD)
    assert set(tasks) == {"tinyworld_answers", "tinyworld_answers_new_people", "tinyworld_chat_sums", "tinyworld_sums"}
    sums = list(questions_of(tasks["tinyworld_chat_sums"]))
    assert len(sums) == 121
    assert all(question.answer.isdigit() for question in sums)
    assert Question("Add four to three.", "7") in sums


def test_a_choice_of_contexts_gives_the_right_one(tmp_path):
    """As WinoGrande is written: the context is chosen, what follows is the same."""
    from hfgpt.evals.tasks import load_tasks

    row = {
        "contexts": ["The cup did not fit the box because the cup", "... because the box"],
        "right": 1,
        "end": "was",
    }
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    task = {
        "task": "contexts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "right",
        "doc_to_choice": "{{contexts}}",
        "doc_to_target": "end",
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "contexts.yaml").write_text(json.dumps(task))
    ((_, loaded),) = load_tasks(["contexts"], tmp_path, {})
    assert list(questions_of(loaded["tasks"]["contexts"])) == [Question("... because the box", "was")]


def test_questions_of_core_are_those_of_its_files_without_examples(shared_data):
    bundle = shared_data / "evals" / "core"
    tasks = tasks_by_name(["core"], {"core_bundle": str(bundle)})
    assert len(tasks) == 8

    def rows(name: str) -> list[dict]:
        (file,) = bundle.glob(f"eval_data/*/{name}.jsonl")
        return [json.loads(line) for line in file.read_text().splitlines()]

    asked = {name: {(q.text, q.answer) for q in questions_of(task)} for name, task in tasks.items()}
    assert asked["core_piqa"] == {(row["query"], row["choices"][row["gold"]]) for row in rows("piqa")}
    assert asked["core_jeopardy"] == {(row["context"], row["continuation"]) for row in rows("jeopardy_all")}
    contexts = {row["context_options"][row["gold"]] for row in rows("winograd_wsc")}
    assert {text for text, _ in asked["core_winograd"]} == contexts


@pytest.mark.parametrize(
    ("text", "answer", "looked_for"),
    [
        ("Question: What is seven plus eight?\nAnswer:", " 15", "what is seven plus eight 15"),
        (
            "Q: Who wrote the play that is called Hamlet?\nA:",
            "Shakespeare",
            "who wrote the play that is called hamlet",
        ),
        ("Calo Fairwood has a", " cat.", "calo fairwood has a cat"),
        ("3 + 4 =", " 7", "3 + 4 = 7"),
        ("[ ( { <", "> } ) ]", ""),
        ("Two and two?", "", ""),
    ],
)
def test_short_questions_are_looked_for_with_their_answer_and_without_their_frame(text, answer, looked_for):
    assert Question(text, answer).words == words_of(looked_for)


def test_a_recipe_tells_tasks_its_world_and_where_other_questions_are():
    data = DataArguments(tinyworld_people=12, seed=3)
    assert task_metadata(data, {"core_bundle": None, "bpb_text": [], "max_steps": 1}) == WORLD
    told = {"core_bundle": "bundle.zip", "bpb_text": ["book.txt"]}
    assert task_metadata(data, told) == {**WORLD, **told}
