"""lm-eval tasks by name: ours, the caller's own, and lm-eval's; with data from a local folder where one is given."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfgpt.errors import UserError

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager
    from lm_eval.tasks.manager import TaskDict

OUR_TASKS = Path(__file__).parent
LM_EVAL_FEWSHOT_SEED = 1234  # simple_evaluate's default, so that few-shot scores compare


def load_tasks(
    tasks: list[str],
    include_path: str | Path | None,
    metadata: Mapping[str, Any] | None,
    *,
    task_data: Mapping[str, Path] | None = None,
    num_fewshot: int | None = None,
) -> Iterator[tuple[bool, TaskDict]]:
    """Those asked as plain text, then those in chat form, as pairs (in chat form, tasks and groups).

    `task_data` names a folder to read a task's data from instead of the Hub: a copy of the Hub's, or files named by
    their split (`validation.jsonl`). `num_fewshot` holds for the tasks that do not forbid it by asking for none.
    Raises UserError for a task that does not exist, or whose data cannot be read.
    """
    manager = _manager(tasks, include_path)
    from lm_eval.tasks._factory import TaskFactory  # after the manager: it takes seconds

    manager._factory = TaskFactory(meta=dict(metadata or {}))  # a new index, for other metadata, takes seconds too
    by_name = {name: _load(manager, name, (task_data or {}).get(name)) for name in tasks}
    chat = {name for name, loaded in by_name.items() if any(map(_in_chat_form, loaded["tasks"].values()))}
    for in_chat_form in (False, True):
        together: TaskDict = {"tasks": {}, "groups": {}, "group_map": {}}
        for name in tasks:
            if (name in chat) == in_chat_form:
                together["tasks"] |= by_name[name]["tasks"]
                together["groups"] |= by_name[name]["groups"]
                together["group_map"] |= by_name[name]["group_map"]
        for task in together["tasks"].values():
            shots = task.get_config("num_fewshot")
            if shots is None or (num_fewshot is not None and shots != 0):
                task.set_config(key="num_fewshot", value=num_fewshot or 0)
            task.set_fewshot_seed(seed=LM_EVAL_FEWSHOT_SEED)
            (task.get_config("metadata") or {}).pop("tokenizer", None)  # results would hold a copy for each task
        if together["tasks"]:
            yield in_chat_form, together


def check_tasks(tasks: list[str]) -> None:
    """Raises UserError for a task that does not exist."""
    if tasks:
        _manager(tasks, None)


def _manager(tasks: list[str], include_path: str | Path | None) -> TaskManager:
    """Knows our tasks and the caller's, and lm-eval's thousands only where they are asked for: indexing is slow."""
    folders = (OUR_TASKS, *([Path(include_path)] if include_path else []))
    for include_defaults in (False, True):
        manager = _index(folders, include_defaults)
        unknown = [task for task in tasks if task not in manager.all_tasks]
        if not unknown:
            return copy.copy(manager)
    raise UserError(f"No evaluation task is called {unknown[0]}: `lm-eval ls tasks` lists lm-eval's own.")


@lru_cache(maxsize=4)
def _index(folders: tuple[Path, ...], include_defaults: bool) -> TaskManager:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(folders), include_defaults=include_defaults)


def _load(manager: TaskManager, name: str, folder: Path | None) -> TaskDict:
    try:
        if folder is None:
            return manager.load([name])
        # A group of our own is how lm-eval lets a registered task, or group of tasks, have another configuration.
        wrapper = f"{name} from {folder}"
        loaded = manager.load([{"group": wrapper, "task": _local(manager, name, folder)}])
    except UserError:
        raise
    except Exception as error:  # of datasets, huggingface_hub, pyarrow and the tasks' own code
        reason = " ".join(str(error).split())[:300]
        where = folder or "the Hub"
        raise UserError(
            f"{name}: its data cannot be read from {where} ({type(error).__name__}: {reason}); "
            f"--task_data {name}=FOLDER takes a local copy."
        ) from error
    return {
        "tasks": loaded["tasks"],
        "groups": {group: value for group, value in loaded["groups"].items() if group != wrapper},
        "group_map": {group: value for group, value in loaded["group_map"].items() if group != wrapper},
    }


def _local(manager: TaskManager, name: str, folder: Path) -> list[dict[str, Any]]:
    """What a group lists to have `name`, a task, tag or group, with its data in `folder`."""
    if not folder.is_dir():
        raise UserError(f"--task_data {name}={folder}: there is no such folder.")
    path = {"dataset_path": str(folder.resolve())}
    entry = manager.task_index[name]
    if name in manager.all_groups:
        return [{"group": name, **path}]
    members = sorted(entry.tags) if entry.cfg is None else [name]  # a tag has no configuration of its own
    return [{"task": member, **path, **_subset(manager, member, folder)} for member in members]


def _subset(manager: TaskManager, name: str, folder: Path) -> dict[str, Any]:
    """A task's subset of its dataset where the folder, being a copy of the Hub's, has subsets; else none."""
    from datasets import get_dataset_config_names

    subset = (manager.task_index[name].cfg or {}).get("dataset_name")
    return {} if subset in get_dataset_config_names(str(folder)) else {"dataset_name": None}


def _in_chat_form(task: Task) -> bool:
    return bool((task.get_config("metadata") or {}).get("chat"))
