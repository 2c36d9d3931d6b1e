"""The questions of lm-eval tasks: what a recipe tells the tasks, and the words of questions and answers, by which they
can be looked for in training data."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfgpt.arguments import DataArguments
from hfgpt.evals.ngrams import words_of

if TYPE_CHECKING:
    from lm_eval.api.task import Task

# Brown et al. 2020 (arXiv:2005.14165), appendix C: shorter n-grams are found by chance.
SHORT_QUESTION_WORDS = 8
LEAST_WORDS = 4  # of question and answer: of fewer it cannot be told whether they stand somewhere by chance
# How tasks frame a question, which its place in a training text need not share.
_FRAME = re.compile(r"^\s*(question|q)\s*:|\b(answer|a)\s*:\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Question:
    """A question as its task asks it, with its right answer, and the words of it that are looked for."""

    text: str
    answer: str

    @property
    def words(self) -> list[str]:
        """Those of the question; where they are fewer than `SHORT_QUESTION_WORDS`, of question and answer; none where
        these are fewer than `LEAST_WORDS`."""
        words = words_of(_FRAME.sub(" ", self.text))
        if len(words) < SHORT_QUESTION_WORDS:
            words += words_of(self.answer)
        return words if len(words) >= LEAST_WORDS else []


def questions_of(task: "Task") -> Iterator[Question]:
    """Every question that the task scores, few-shot examples left out."""
    for doc in task.eval_docs:
        text, answer = task.doc_to_text(doc), task.doc_to_target(doc)
        if isinstance(text, int):  # a context for each choice, and what follows it is the same for all
            text = task.doc_to_choice(doc)[text]
        elif isinstance(answer, int) and task.config.output_type == "multiple_choice":
            answer = task.doc_to_choice(doc)[answer]
        if isinstance(answer, list):  # any of these is right
            answer = answer[0] if answer else ""
        yield Question(str(text), str(answer))


def tasks_by_name(names: list[str], metadata: dict[str, Any]) -> dict[str, "Task"]:
    """The lm-eval tasks of these names, those of groups included. Raises UserError for one that does not exist."""
    from hfgpt.evals.harness import quiet  # torch, which processes that only search do without
    from hfgpt.evals.tasks import load_tasks

    with quiet():
        return {
            name: task for _, loaded in load_tasks(names, None, metadata) for name, task in loaded["tasks"].items()
        }


def task_metadata(data: DataArguments, stage: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe tells the tasks that make or fetch their own questions: the tiny world of section `data`, and
    `core_bundle` and `bpb_text` of a stage's section, where they are set."""
    world = {"tinyworld_people": data.tinyworld_people, "seed": data.seed}
    return world | {key: stage[key] for key in ("core_bundle", "bpb_text") if stage.get(key)}
