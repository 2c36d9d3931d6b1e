"""lm-eval as a function of a model in memory: scores come back, and nothing of the run around it changes."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from hfgpt.errors import UserError
from hfgpt.evals.scores import Scores
from hfgpt.evals.tasks import load_tasks

if TYPE_CHECKING:
    from lm_eval.tasks.manager import TaskDict
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class TaskSettings:
    """What decides the questions of tasks, whatever the model.

    `limit` is the number of questions per task. `num_fewshot` replaces the number of examples of the tasks that allow
    it. `metadata` reaches the tasks that make their own questions (the tiny world's `tinyworld_people` and `seed`).
    `include_path` is one more folder of task files, `task_data` a folder of data by task. With `apply_chat_template`
    every task is asked through the tokenizer's chat template, otherwise those whose YAML says `metadata: {chat: true}`
    are.
    """

    limit: int | None = None
    num_fewshot: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    include_path: Path | None = None
    task_data: dict[str, Path] = field(default_factory=dict)
    apply_chat_template: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What came out, by task or group. `left_out` names the tasks of a group whose data is missing; `samples` holds
    each task's questions, answers and metrics as lm-eval logs them, where they were asked for."""

    scores: Scores = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    num_fewshot: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)
    samples: dict[str, list[dict[str, Any]]] | None = None

    def __or__(self, other: Evaluation) -> Evaluation:
        """Both, where they are of different tasks."""
        both = {name: {**vars(self)[name], **vars(other)[name]} for name in ("scores", "versions", "num_fewshot")}
        samples = None if self.samples is None or other.samples is None else {**self.samples, **other.samples}
        return Evaluation(**both, left_out=self.left_out | other.left_out, samples=samples)


def evaluate_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[str],
    *,
    limit: int | None = None,
    batch_size: int | None = 64,
    metadata: dict[str, Any] | None = None,
    include_path: str | Path | None = None,
    progress: bool = False,
) -> Scores:
    """Scores by task, as `{"tinyworld_facts": {"acc": 0.82, "stderr": 0.01}}`; a group brings its tasks along.

    `stderr` is the standard error of a task's first metric, `<metric>_stderr` that of another; it is left out where
    lm-eval knows none. The other arguments, and what is raised, are those of `run_tasks`.
    """
    folder = Path(include_path) if include_path else None
    settings = TaskSettings(limit=limit, metadata=metadata or {}, include_path=folder)
    return run_tasks(model, tokenizer, tasks, settings, batch_size=batch_size, progress=progress).scores


def run_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[str],
    settings: TaskSettings,
    *,
    batch_size: int | None = None,
    progress: bool = False,
    log_samples: bool = False,
    allow_code: bool = False,
    answers: Path | None = None,
) -> Evaluation:
    """Ask `tasks` of a model in memory.

    `batch_size` None takes as many questions at a time as fit. `answers` is a folder where answers are kept as they
    come and taken from; it must belong to this model. `allow_code` lets tasks run programs that the model wrote.

    Where torch.distributed runs, every process must call this: the questions are shared out, and each process gets the
    same scores (samples only the first one). The mode of every module and all random states are afterwards what they
    were. Raises UserError for a task that does not exist, whose data cannot be read, or that is not for this model.
    """
    with unchanged(model), _in_one_process(), quiet():
        from hfgpt.evals.answer_log import AnswerLog
        from hfgpt.evals.language_model import InMemoryModel  # takes seconds, so only who evaluates waits for it

        log = AnswerLog(answers) if answers else None
        language_model = InMemoryModel(model, tokenizer, batch_size, progress, log)
        # What lm-eval's own command tells tasks of the model, under its names; CORE counts tokens.
        of_model = {"tokenizer": tokenizer, "max_length": language_model.max_length}
        evaluation = Evaluation(samples={} if log_samples else None)
        for needs_chat, loaded in load_tasks(
            tasks,
            settings.include_path,
            settings.metadata | of_model,
            task_data=settings.task_data,
            num_fewshot=settings.num_fewshot,
        ):
            in_chat_form = needs_chat or settings.apply_chat_template
            _check(loaded, in_chat_form and not tokenizer.chat_template, allow_code)
            evaluation |= _evaluate(language_model, loaded, in_chat_form, settings.limit, log_samples, allow_code)
        if log:
            log.close()
    if language_model.world_size > 1:
        box = [replace(evaluation, samples=None)]
        dist.broadcast_object_list(box, src=0, device=model.device)
        evaluation = replace(box[0], samples=evaluation.samples)
    return evaluation


def _check(loaded: TaskDict, lacks_template: bool, allow_code: bool) -> None:
    if lacks_template:
        names = ", ".join(loaded["tasks"])
        raise UserError(f"The tokenizer has no chat template to ask {names} with: leave out these tasks.")
    unsafe = [name for name, task in loaded["tasks"].items() if task.get_config("unsafe_code")]
    if unsafe and not allow_code:
        raise UserError(f"{', '.join(unsafe)} runs programs that the model writes: say --allow_code to let it.")


def _evaluate(
    language_model, loaded: TaskDict, in_chat_form: bool, limit: int | None, log_samples: bool, allow_code: bool
) -> Evaluation:
    from lm_eval.evaluator import evaluate

    # simple_evaluate would reseed every generator and ask git, pip and nvidia-smi about this machine.
    found = evaluate(
        lm=language_model,
        task_dict=loaded,
        limit=limit,
        bootstrap_iters=1000,  # 0 would leave out the standard error of means too, which has a formula
        log_samples=log_samples,
        apply_chat_template=in_chat_form,
        confirm_run_unsafe_code=allow_code,
    )
    if found is None:  # the first process has it
        return Evaluation(samples={} if log_samples else None)
    results: dict[str, dict[str, Any]] = found["results"]
    names = sorted(results, key=lambda name: name not in loaded["groups"])  # groups before their tasks
    scores = {name: score for name in names if (score := _scores(results[name]))}
    return Evaluation(
        scores=scores,
        versions={name: version for name, version in found["versions"].items() if version != "N/A"},
        num_fewshot={name: shots for name, shots in found["n-shot"].items() if isinstance(shots, int)},
        left_out={name: raw["missing_tasks"] for name, raw in results.items() if raw.get("missing_tasks")},
        samples=found.get("samples", {}) if log_samples else None,
    )


def _scores(raw: dict[str, Any]) -> dict[str, float]:
    """lm-eval's `{"acc,none": ..., "acc_stderr,none": ...}` in our words."""
    scores: dict[str, float] = {}
    errors: dict[str, float] = {}
    for key, value in raw.items():
        metric, comma, filter_name = key.partition(",")
        if not comma or not isinstance(value, int | float):
            continue
        kind = errors if metric.endswith("_stderr") else scores
        metric = metric.removesuffix("_stderr")
        kind[metric if filter_name == "none" else f"{metric},{filter_name}"] = float(value)
    first = next(iter(scores), None)
    return scores | {"stderr" if metric == first else f"{metric}_stderr": error for metric, error in errors.items()}


@contextlib.contextmanager
def unchanged(model: torch.nn.Module) -> Iterator[None]:
    """Puts back the mode of every module and the state of every random generator."""
    training = [module for module in model.modules() if module.training]
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    cuda_states = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    try:
        yield
    finally:
        for module in training:
            module.training = True
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if cuda_states:
            torch.cuda.set_rng_state_all(cuda_states)


@contextlib.contextmanager
def _in_one_process() -> Iterator[None]:
    """Keeps lm-eval from forking workers for its bootstrap, which a process with threads or a GPU must not do."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences lm-eval's log and its progress bars, some of which cannot be turned off otherwise."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
