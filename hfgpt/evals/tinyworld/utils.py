"""The documents of the tiny world's tasks. lm-eval hands each function the task's `metadata` (from the YAML,
`--metadata` and the model arguments) and its `dataset_kwargs` as keywords."""

from datasets import Dataset

from hfgpt.arguments import DataArguments
from hfgpt.data.tinyworld import TinyWorld

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
