"""lm-eval as a function of a model in memory: scores come back, and nothing of the run around it changes."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from hfgpt.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks.manager import TaskDict
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

OUR_TASKS = Path(__file__).parent
LM_EVAL_FEWSHOT_SEED = 1234  # simple_evaluate's default, so that few-shot scores compare


def evaluate_tasks(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[str],
    *,
    limit: int | None = None,
    batch_size: int = 64,
    metadata: dict[str, Any] | None = None,
    include_path: str | Path | None = None,
    progress: bool = False,
) -> dict[str, dict[str, float]]:
    """Scores by task, as `{"tinyworld_facts": {"acc": 0.82, "stderr": 0.01}}`; a group brings its tasks along.

    `limit` is the number of questions per task. `metadata` reaches the tasks that make their own questions (the tiny
    world's `tinyworld_people` and `seed`). `include_path` is one more folder of task files. `stderr` is the standard
    error of a task's first metric, `<metric>_stderr` that of another; it is left out where lm-eval knows none. A task
    whose YAML says `metadata: {chat: true}` is asked through the tokenizer's chat template.

    Where torch.distributed runs, every process must call this: the questions are shared out, and each process gets the
    same scores. The mode of every module and all random states are afterwards what they were. Raises UserError for a
    task that does not exist, and for a chat task where the tokenizer has no chat template.
    """
    with unchanged(model), _in_one_process(), contextlib.nullcontext() if progress else _quiet():
        from lm_eval.evaluator import evaluate  # takes seconds, so only who evaluates waits for it

        language_model = _language_model(model, tokenizer, batch_size, progress)
        scores: dict[str, dict[str, float]] = {}
        for in_chat_form, task_dict in _load_tasks(tasks, include_path, metadata):
            if in_chat_form and not tokenizer.chat_template:
                names = ", ".join(task_dict["tasks"])
                raise UserError(f"The tokenizer has no chat template to ask {names} with: leave out these tasks.")
            # simple_evaluate would reseed every generator and ask git, pip and nvidia-smi about this machine.
            results = evaluate(
                lm=language_model,
                task_dict=task_dict,
                limit=limit,
                bootstrap_iters=1000,  # 0 would leave out the standard error of means too, which has a formula
                log_samples=False,
                apply_chat_template=in_chat_form,
            )
            scores |= {} if results is None else {name: _scores(raw) for name, raw in results["results"].items()}
    if language_model.world_size > 1:
        box = [scores]
        dist.broadcast_object_list(box, src=0, device=model.device)
        scores = box[0]
    return {name: score for name, score in scores.items() if score}


def _load_tasks(
    tasks: list[str], include_path: str | Path | None, metadata: dict[str, Any] | None
) -> Iterator[tuple[bool, TaskDict]]:
    """Those asked as plain text, then those in chat form. Our tasks and the caller's, and lm-eval's thousands only
    where they are asked for: indexing them is slow."""
    from lm_eval.tasks import TaskManager

    folders = [OUR_TASKS, *([Path(include_path)] if include_path else [])]
    for include_defaults in (False, True):
        manager = TaskManager(include_path=folders, include_defaults=include_defaults, metadata=metadata)
        unknown = [task for task in tasks if task not in manager.all_tasks]
        if not unknown:
            break
    else:
        raise UserError(f"No evaluation task is called {unknown[0]}: `lm-eval ls tasks` lists lm-eval's own.")
    chat = {task for task in tasks if any(map(_in_chat_form, manager.load([task])["tasks"].values()))}
    for in_chat_form in (False, True):
        loaded = manager.load([task for task in tasks if (task in chat) == in_chat_form])
        for task in loaded["tasks"].values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=LM_EVAL_FEWSHOT_SEED)
        if loaded["tasks"]:
            yield in_chat_form, loaded


def _in_chat_form(task: Task) -> bool:
    return bool((task.get_config("metadata") or {}).get("chat"))


def _language_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int, progress: bool):
    from lm_eval.models.huggingface import HFLM
    from torch.distributed.tensor import DTensor

    class InMemoryModel(HFLM):
        """HFLM takes a model in memory for a single process; this one shares the questions out over the default
        process group."""

        def loglikelihood(self, requests, disable_tqdm=False):
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm or not progress)

        def generate_until(self, requests, disable_tqdm=False):
            return super().generate_until(requests, disable_tqdm=disable_tqdm or not progress)

        def all_gather(self, tensor):
            gathered = [torch.empty_like(tensor) for _ in range(self.world_size)]
            dist.all_gather(gathered, tensor)
            return torch.stack(gathered)

        def barrier(self):
            if self.world_size > 1:
                dist.barrier()

    language_model = InMemoryModel(
        pretrained=model,
        tokenizer=copy.deepcopy(tokenizer),  # HFLM may give it a pad token
        batch_size=batch_size,
        # Grouping questions by context saves work, but then processes differ in their number of forward passes, at
        # which sharded parameters are gathered by all.
        logits_cache=not any(isinstance(parameter, DTensor) for parameter in model.parameters()),
    )
    if dist.is_available() and dist.is_initialized():
        language_model._rank, language_model._world_size = dist.get_rank(), dist.get_world_size()
    return language_model


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
def _quiet() -> Iterator[None]:
    """Silences lm-eval's log and its progress bars, some of which cannot be turned off otherwise."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
