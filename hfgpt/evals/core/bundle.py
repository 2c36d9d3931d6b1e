"""CORE's data: an eval bundle in nanochat's layout (`core.yaml`, `eval_meta_data.csv`, `eval_data/`), a folder or zip.
Given, or downloaded once; read where it lies, never unpacked."""

import csv
import io
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import yaml
from filelock import FileLock
from huggingface_hub import constants

from hfgpt.data.url_files import is_url, local_copy
from hfgpt.errors import UserError

# Where nanochat's scripts/base_eval.py downloads it from.
BUNDLE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"

Kind = Literal["multiple_choice", "schema", "language_modeling"]
Folder = Path | zipfile.Path

# What a row of each kind must have, and of which type.
FIELDS: dict[Kind, dict[str, type]] = {
    "multiple_choice": {"query": str, "choices": list, "gold": int},
    "schema": {"context_options": list, "continuation": str, "gold": int},
    "language_modeling": {"context": str, "continuation": str},
}


@dataclass(frozen=True)
class TaskSpec:
    """One task as `core.yaml` and the table of baselines have it; `baseline` is the accuracy of guessing, 0 to 1."""

    label: str
    file: str
    kind: Kind
    num_fewshot: int
    delimiter: str
    baseline: float


class Bundle:
    """An eval bundle that was found and checked; `tasks` are those of its `core.yaml`, in that order, by label."""

    def __init__(self, folder: Folder):
        """`folder` holds `core.yaml`. Raises UserError for a file that is missing or not what it should be."""
        self.folder = folder
        self.tasks = {spec.label: spec for spec in self._specs()}
        if not self.tasks:
            raise UserError(f"core_bundle: {folder / 'core.yaml'} names no task under icl_tasks.")

    @property
    def missing(self) -> list[str]:
        """Labels of the tasks whose data is not in the bundle."""
        return [spec.label for spec in self.tasks.values() if not self._data(spec).is_file()]

    def rows(self, label: str) -> list[dict[str, Any]]:
        """The questions of a task in the order of its file. Raises UserError naming the row that is not one."""
        spec = self.tasks[label]
        path = self._data(spec)
        rows = []
        for number, line in enumerate(io.StringIO(self._text(path)), 1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"core_bundle: {path}, line {number} is not JSON ({error.msg}).") from error
            _check_row(row, spec, f"core_bundle: {path}, line {number}")
            rows.append(row)
        if not rows:
            raise UserError(f"core_bundle: {path} is empty.")
        return rows

    def _specs(self) -> Iterator[TaskSpec]:
        baselines = self._baselines()
        path = self.folder / "core.yaml"
        try:
            entries = yaml.safe_load(self._text(path))["icl_tasks"]
            for entry in entries:
                label, kind = entry["label"], entry["icl_task_type"]
                if kind not in get_args(Kind):
                    raise UserError(
                        f"core_bundle: {path}: {label} is of type {kind}, not {', '.join(get_args(Kind))}."
                    )
                if label not in baselines:
                    raise UserError(f"core_bundle: {self.folder / 'eval_meta_data.csv'} has no row for {label}.")
                file, num_fewshot = PurePosixPath(entry["dataset_uri"]), int(entry["num_fewshot"][0])
                if file.is_absolute() or ".." in file.parts:
                    raise UserError(f"core_bundle: {path}: {label} has its data outside of the bundle, in {file}.")
                if num_fewshot < 0:
                    raise UserError(f"core_bundle: {path}: num_fewshot of {label} is {num_fewshot}, below 0.")
                yield TaskSpec(
                    label,
                    file=str(file),
                    kind=kind,
                    num_fewshot=num_fewshot,
                    delimiter=entry.get("continuation_delimiter", " "),
                    baseline=0.01 * baselines[label],
                )
        except UserError:
            raise
        except (yaml.YAMLError, KeyError, TypeError, IndexError, ValueError) as error:
            raise UserError(f"core_bundle: {path} is not a list of CORE's tasks ({error!r}).") from error

    def _baselines(self) -> dict[str, float]:
        """The accuracy of guessing by label, in per cent."""
        path = self.folder / "eval_meta_data.csv"
        try:
            table = csv.DictReader(io.StringIO(self._text(path)))
            return {row["Eval Task"]: float(row["Random baseline"]) for row in table}
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"core_bundle: {path} is not the table of baselines ({error!r}).") from error

    def _data(self, spec: TaskSpec) -> Folder:
        return self.folder / "eval_data" / spec.file

    def _text(self, path: Folder) -> str:
        with _damage_named(path):
            if not path.is_file():
                raise UserError(f"core_bundle: {path} is missing.")
            return path.read_text(encoding="utf-8")


def open_bundle(source: str | Path | None = None) -> Bundle:
    """The bundle in a folder, a zip or at a URL; without `source` nanochat's own, downloaded once into HF's cache.

    Raises UserError for a source that is no bundle, and where the download fails.
    """
    name = str(source or BUNDLE_URL)
    if not is_url(name):
        return Bundle(_folder_with_tasks(Path(name).expanduser()))
    cache = Path(constants.HF_HOME) / "hfgpt-files"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "core_bundle.lock"):  # one download, however many processes ask
        copy = local_copy(name, key="core_bundle")
        try:
            return Bundle(_folder_with_tasks(copy))
        except UserError as error:
            copy.unlink()
            raise UserError(f"core_bundle: what {name} gave is no eval bundle and was removed ({error})") from error


def _folder_with_tasks(path: Path) -> Folder:
    """The folder with `core.yaml`: `path`, the root of the zip that it is, or a folder in either."""
    if not path.exists():
        raise UserError(
            f"core_bundle: {path} does not exist: give a folder or zip in the layout of nanochat's eval_bundle, or "
            "leave core_bundle out to download it."
        )
    root: Folder = path
    if path.is_file():
        with _damage_named(path):
            root = zipfile.Path(path)
    for folder in (root, *root.iterdir()):
        if (folder / "core.yaml").is_file():
            return folder
    raise UserError(f"core_bundle: {path} has no core.yaml, so it is not an eval bundle.")


def _check_row(row: Any, spec: TaskSpec, where: str) -> None:
    for field, kind in FIELDS[spec.kind].items():
        if not isinstance(row, dict) or not isinstance(row.get(field), kind):
            raise UserError(f"{where}: a {spec.kind} question needs {field}, of type {kind.__name__}.")
    name = "choices" if spec.kind == "multiple_choice" else "context_options"
    options = row.get(name, [])
    if not all(isinstance(option, str) for option in options):
        raise UserError(f"{where}: {name} must all be text.")
    if spec.kind != "language_modeling" and not 0 <= row["gold"] < len(options):
        raise UserError(f"{where}: gold is {row['gold']}, but there are {len(options)} options to choose from.")


@contextmanager
def _damage_named(path: Folder) -> Iterator[None]:
    """A zip's checksums are compared as it is read; this says what a wrong one means."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError, OSError) as error:
        raise UserError(f"core_bundle: {path} cannot be read ({error}): put a whole copy in its place.") from error
