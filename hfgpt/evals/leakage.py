"""How many questions of each evaluation task stand in what a run trained on, by n-grams of words, into
report/leakage.json. A score on such questions says less: the model may have read them."""

import json
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from hfgpt.arguments import DataArguments
from hfgpt.cores import available_cores
from hfgpt.data.worker_processes import ordered_map
from hfgpt.errors import UserError
from hfgpt.evals.ngrams import NGRAM_WORDS, NgramIndex, Overlap
from hfgpt.evals.questions import SHORT_QUESTION_WORDS, Question, questions_of, task_metadata, tasks_by_name
from hfgpt.evals.training_text import Batch, Decoder, complete_stages, recipe_as_run, training_batches

LEAKAGE_FILE = "leakage.json"
EXAMPLES = 5  # of a task, that are written out
RULE = (
    f"{NGRAM_WORDS} words of a question in a row; all words of a shorter one, and of its answer where the question "
    f"has fewer than {SHORT_QUESTION_WORDS}"
)
ALONE_SECONDS = 5.0  # processes take about three to start

Item = TypeVar("Item")
Result = TypeVar("Result")


def measure_leakage(
    run_folder: Path, tasks: list[str] | None = None, *, core_bundle: str | None = None, num_proc: int = 0
) -> dict[str, Any]:
    """The overlap of the run's training data with `tasks` (default: the `eval_tasks` of its stages), as
    `{"n", "rule", "words": {stage: count}, "tasks": {task: {"questions", "overlapping", "unchecked", "stages",
    "examples"}}}`.

    A question overlaps where any `n` words of it in a row stand so in one document, pair or prompt of a complete
    stage, whatever the case and punctuation (Brown et al. 2020, arXiv:2005.14165, appendix C). One of fewer words
    overlaps where all of them do, and one of fewer than `SHORT_QUESTION_WORDS` is looked for together with its right
    answer. `unchecked` counts questions of too few words, `stages` those found in each stage's data.

    `core_bundle` is what the recipe says unless given; `num_proc` processes share the work, 0 is every core. Text is
    read a batch at a time: memory grows with the number of questions alone.

    Raises UserError where no stage is complete, no task is named, or a stage's rows are gone.
    """
    stages = complete_stages(run_folder)
    if not stages:
        raise UserError(f"{run_folder} holds no complete stage: give the folder of a run, as runs/tiny.")
    data, sections = _as_run(run_folder, stages)
    if tasks is None:
        tasks = list(dict.fromkeys(task for section in sections for task in section.get("eval_tasks") or []))
    if not tasks:
        raise UserError(f"the recipe of {run_folder} names no eval_tasks: give some by --tasks.")
    metadata: dict[str, Any] = {"tokenizer": str(run_folder / stages[-1]), "max_length": data.max_length}
    for section in (*sections, {"core_bundle": core_bundle}):
        metadata |= task_metadata(data, section)
    asked = [
        (name, question) for name, task in tasks_by_name(tasks, metadata).items() for question in questions_of(task)
    ]
    index = NgramIndex(question.words for _, question in asked)
    words: dict[str, int] = {}
    found: dict[str, dict[int, str]] = {}
    for stage in stages:
        scan = partial(find_in_batch, Decoder(run_folder / stage), index)
        batches = training_batches(run_folder, stage)
        words[stage], found[stage] = _scan(scan, batches, stage, num_proc or available_cores())
    names = list(dict.fromkeys(name for name, _ in asked))
    return {
        "n": NGRAM_WORDS,
        "rule": RULE,
        "words": words,
        "tasks": {name: _counts(name, asked, found) for name in names},
    }


def _as_run(run_folder: Path, stages: list[str]) -> tuple[DataArguments, list[dict[str, Any]]]:
    """Section `data` of the run, and the section of each stage."""
    recipes = [recipe_as_run(run_folder, stage) for stage in stages]
    return recipes[0].data, [recipe.sections[stage] for recipe, stage in zip(recipes, stages, strict=True)]


def write_leakage(run_folder: Path, measured: dict[str, Any]) -> Path:
    """Write what `measure_leakage` returned to the run's `report/leakage.json`."""
    path = run_folder / "report" / LEAKAGE_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(measured, indent=1, ensure_ascii=False), encoding="utf-8")
    return path


def find_in_batch(decode: Decoder, index: NgramIndex, batch: Batch) -> tuple[list[Overlap], int]:
    """The work of one process on one batch."""
    return index.find(decode(batch))


def _scan(
    scan: Callable[[Batch], tuple[list[Overlap], int]], batches: Iterable[Batch], stage: str, num_proc: int
) -> tuple[int, dict[int, str]]:
    """Words read, and for each question found the piece of text that it was found in."""
    words = 0
    found: dict[int, str] = {}
    quiet = not sys.stderr.isatty()
    with (
        tqdm(desc=f"reading {stage}", unit=" words", unit_scale=True, disable=quiet) as progress,
        closing(_in_order(scan, batches, num_proc)) as results,
    ):
        for overlaps, count in results:
            words += count
            progress.update(count)
            for overlap in overlaps:
                found.setdefault(overlap.question, overlap.text)
    return words, found


def _in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_proc: int
) -> Generator[Result, None, None]:
    """`function` of every item; processes help once it takes longer than they take to start."""
    items, start = iter(items), time.monotonic()
    for item in items:
        yield function(item)
        if num_proc > 1 and time.monotonic() - start > ALONE_SECONDS:
            yield from ordered_map(function, items, num_proc)


def _counts(name: str, asked: list[tuple[str, Question]], found: dict[str, dict[int, str]]) -> dict[str, Any]:
    own = [number for number, (task, _) in enumerate(asked) if task == name]
    places = {number: stage for stage in reversed(found) for number in own if number in found[stage]}
    examples = [
        {
            "question": asked[number][1].text,
            "answer": asked[number][1].answer,
            "stage": stage,
            "text": found[stage][number],
        }
        for number, stage in sorted(places.items())[:EXAMPLES]
    ]
    return {
        "questions": len(own),
        "overlapping": len(places),
        "unchecked": sum(not asked[number][1].words for number in own),
        "stages": {stage: sum(number in seen for number in own) for stage, seen in found.items()},
        "examples": examples,
    }
