"""The documents of the tiny world's tasks and the grading of answers in chat form. lm-eval hands each document
function the task's `metadata` (from the YAML, `--metadata` and the model arguments) and its `dataset_kwargs` as
keywords."""

import re

from datasets import Dataset

from hfgpt.arguments import DataArguments
from hfgpt.data.tinyworld import TinyWorld
from hfgpt.errors import UserError
from hfgpt.training.rewards import correct_number

DEFAULTS = DataArguments()


def facts(
    attribute: str, tinyworld_people: int = DEFAULTS.tinyworld_people, seed: int = DEFAULTS.seed, **_
) -> dict[str, Dataset]:
    """The held-out questions about one attribute of every person."""
    questions = TinyWorld(int(tinyworld_people), int(seed)).questions()
    return {"test": Dataset.from_list([question for question in questions if question["attribute"] == attribute])}


def sums(seed: int = DEFAULTS.seed, **_) -> dict[str, Dataset]:
    """Every sum, in a wording that no document uses for it."""
    return {"test": Dataset.from_list(TinyWorld(2, int(seed)).sum_questions())}


def answers(tinyworld_people: int = DEFAULTS.tinyworld_people, seed: int = DEFAULTS.seed, **_) -> dict[str, Dataset]:
    """Questions about the people of the conversations, in wordings that no stage uses for them."""
    world = TinyWorld(int(tinyworld_people), int(seed))
    return {"test": Dataset.from_list(world.chat_questions(world.conversation_people))}


def answers_new_people(
    tinyworld_people: int = DEFAULTS.tinyworld_people, seed: int = DEFAULTS.seed, **_
) -> dict[str, Dataset]:
    """Questions about people whom no conversation mentions."""
    world = TinyWorld(int(tinyworld_people), int(seed))
    if not world.new_people:
        raise UserError(
            f"tinyworld_people is {tinyworld_people}: a world of ten or fewer has no new people to ask about."
        )
    return {"test": Dataset.from_list(world.chat_questions(world.new_people))}


def chat_sums(seed: int = DEFAULTS.seed, **_) -> dict[str, Dataset]:
    """Sums in wordings that no stage uses for them."""
    return {"test": Dataset.from_list(TinyWorld(2, int(seed)).chat_sum_questions())}


def grade_fact(doc: dict, results: list[str]) -> dict[str, float]:
    """`acc`: the answer holds the right value and no other of that attribute; the rest as in `_scores`."""
    stated = [value for value in doc["values"] if re.search(rf"\b{value}\b", results[0], re.IGNORECASE)]
    return _scores(doc, results[0], stated == [doc["answer"]])


def grade_sum(doc: dict, results: list[str]) -> dict[str, float]:
    """`acc`: the last number of the answer is the right one, in digits or words; the rest as in `_scores`."""
    return _scores(doc, results[0], correct_number(results, [doc["answer"]]) == [1.0])


def _scores(doc: dict, answer: str, is_right: bool) -> dict[str, float]:
    """`form`: the answer is a brief or a full one and nothing more, right or wrong, which a model that does not stop
    never gives; `preferred`: it is a full one; `exact_match`: it has the form and is right."""
    is_full = answer in doc["full"]
    has_form = is_full or answer in doc["brief"]
    return {
        "exact_match": float(is_right and has_form),
        "acc": float(is_right),
        "form": float(has_form),
        "preferred": float(is_full),
    }
