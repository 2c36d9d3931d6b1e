"""Results that are there already: an evaluation under what it follows from, the model's weights and tokenizer and
all that decides the questions of a task."""

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from hfgpt import __version__
from hfgpt.errors import UserError
from hfgpt.evals.harness import Evaluation, TaskSettings
from hfgpt.evals.tasks import OUR_TASKS
from hfgpt.whole_files import read_object

# What a model's folder is loaded from; logs and optimizer states beside it do not count.
MODEL_FILES = (
    *("config.json", "generation_config.json", "adapter_config.json", "*.safetensors", "*.bin", "*.index.json"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab*", "merges.txt", "*.jinja", "*.py"),
)
NOT_WEIGHTS = {"training_args.bin", "optimizer.bin", "scheduler.bin"}


class CachedResult:
    """The place of one model's result in one task or group: `folder/<model>/<task>-<hash>.json`, and beside it the
    folder `answers`, for as long as the result is not there."""

    def __init__(self, model: str, task: str, settings: TaskSettings, dtype: str, folder: Path | None = None):
        """`model` is what `model_fingerprint` said of the model, `dtype` the precision that it is asked in. `folder`
        is by default in HF's cache (`HF_HOME`)."""
        facts = {
            "model": model,
            "dtype": dtype,
            "task": task,
            **dataclasses.asdict(settings),
            "files": [_file_stamps(path) for path in _paths_in(settings)],
            "lm_eval": version("lm_eval"),
            "hfgpt": __version__,
            "task_files": [_source_digest(path) for path in (OUR_TASKS, settings.include_path) if path],
        }
        digest = _digest([json.dumps(facts, sort_keys=True, default=str).encode()])
        place = (folder or Path(constants.HF_HOME) / "hfgpt-evals") / model
        self.path = place / f"{task}-{digest}.json"
        self.answers = place / f"{task}-{digest}-answers"

    def load(self, with_samples: bool = False) -> Evaluation | None:
        """The result; None where there is none, or none with the samples that are asked for."""
        try:
            found = Evaluation(**json.loads(self.path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):  # absent, or cut off by a full disk
            return None
        return None if with_samples and found.samples is None else found

    def store(self, evaluation: Evaluation) -> None:
        """Write it, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(json.dumps(dataclasses.asdict(evaluation), default=str), encoding="utf-8")
        partial.replace(self.path)


def model_fingerprint(name_or_path: str) -> str:
    """A name that changes with a model's weights, configuration and tokenizer: a hash of a folder's files, or the
    commit of a Hub repository. Raises UserError where there is no such model."""
    folder = Path(name_or_path)
    if not folder.is_dir():
        return f"hub-{_hub_commit(name_or_path)}"
    files = sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)})
    if lost := [path for path in files if not path.exists()]:
        raise UserError(f"{lost[0]} is a link to a file that is not there.")
    parts = [part for path in files if path.name not in NOT_WEIGHTS for part in (path.name.encode(), path)]
    adapter = folder / "adapter_config.json"
    if adapter.is_file():  # LoRA weights, to be added to those of another model
        base = read_object(adapter).get("base_model_name_or_path")
        parts.append(model_fingerprint(base).encode() if base else b"")
    return _digest(parts)


def _hub_commit(name: str) -> str:
    from transformers.utils.hub import cached_file, extract_commit_hash

    for file in ("config.json", "adapter_config.json"):
        try:
            path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        except OSError as error:
            raise UserError(f"{name} cannot be loaded as a language model: {' '.join(str(error).split())}") from error
        if path:
            return extract_commit_hash(path, None) or _digest([Path(path)])
    raise UserError(f"{name} has no config.json on the Hub, so it is no model.")


def _digest(parts: Iterable[bytes | Path]) -> str:
    """A hash of bytes and of files' contents."""
    digest = blake2b(digest_size=12)
    for part in parts:
        if isinstance(part, bytes):
            digest.update(len(part).to_bytes(8, "little") + part)
            continue
        with part.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def _source_digest(folder: Path) -> str:
    """Of the files that define tasks; a change in any of them may change any of the tasks."""
    files = sorted(path for pattern in ("**/*.yaml", "**/*.py") for path in folder.glob(pattern))
    return _digest(part for path in files for part in (path.name.encode(), path))


def _paths_in(settings: TaskSettings) -> Iterator[Path]:
    """Files and folders that the questions are made of."""
    yield from settings.task_data.values()
    for value in settings.metadata.values():
        for word in value if isinstance(value, list) else [value]:
            if isinstance(word, str) and Path(word).exists():
                yield Path(word)


def _file_stamps(path: Path) -> list[Any]:
    """Names, sizes and times of change."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return [(str(file), (status := file.stat()).st_size, status.st_mtime_ns) for file in files]
