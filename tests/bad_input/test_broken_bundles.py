"""An eval bundle that is broken is refused by file and line."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from eval_bundle import write_bundle, zipped


def spoil(path: Path, line: str) -> None:
    """Add a line to a file of questions."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def tasks(folder: Path, change: Callable[[dict], object]) -> None:
    """Do `change` to the first task of core.yaml."""
    content = yaml.safe_load((folder / "core.yaml").read_text())
    change(content["icl_tasks"][0])
    (folder / "core.yaml").write_text(yaml.safe_dump(content))


QUESTIONS = "eval_data/all/copa.jsonl"
BROKEN: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "no core.yaml": (lambda folder: (folder / "core.yaml").unlink(), ("core.yaml",)),
    "core.yaml that is a list": (lambda folder: (folder / "core.yaml").write_text("[1]"), ("core.yaml",)),
    "core.yaml that is no YAML": (lambda folder: (folder / "core.yaml").write_text("icl_tasks: ["), ("core.yaml",)),
    "core.yaml without tasks": (lambda folder: (folder / "core.yaml").write_text("icl_tasks: []"), ("core.yaml",)),
    "core.yaml that is binary": (lambda folder: (folder / "core.yaml").write_bytes(b"\xff\xfe"), ("core.yaml",)),
    "no table of baselines": (lambda folder: (folder / "eval_meta_data.csv").unlink(), ("eval_meta_data.csv",)),
    "a baseline in words": (
        lambda folder: (folder / "eval_meta_data.csv").write_text("Eval Task,Random baseline\ncopa,half\n"),
        ("eval_meta_data.csv",),
    ),
    "a table without baselines": (
        lambda folder: (folder / "eval_meta_data.csv").write_text("Eval Task\ncopa\n"),
        ("eval_meta_data.csv",),
    ),
    "a task of no baseline": (
        lambda folder: (folder / "eval_meta_data.csv").write_text("Eval Task,Random baseline\npiqa,25\n"),
        ("eval_meta_data.csv", "copa"),
    ),
    "an unknown kind": (lambda folder: tasks(folder, lambda t: t.update(icl_task_type="essay")), ("copa", "essay")),
    "no file of data": (lambda folder: tasks(folder, lambda t: t.pop("dataset_uri")), ("core.yaml", "dataset_uri")),
    "examples in words": (lambda folder: tasks(folder, lambda t: t.update(num_fewshot="few")), ("core.yaml",)),
    "examples below zero": (lambda folder: tasks(folder, lambda t: t.update(num_fewshot=[-3])), ("num_fewshot",)),
    "a broken line": (lambda folder: spoil(folder / QUESTIONS, '{"query": '), ("copa.jsonl", "line 13", "JSON")),
    "a line that is a list": (lambda folder: spoil(folder / QUESTIONS, "[]"), ("copa.jsonl", "line 13")),
    "a question without choices": (
        lambda folder: spoil(folder / QUESTIONS, '{"query": "q", "gold": 0}'),
        ("copa.jsonl", "line 13", "choices"),
    ),
    "an answer beyond the choices": (
        lambda folder: spoil(folder / QUESTIONS, '{"query": "q", "choices": ["a"], "gold": 4}'),
        ("copa.jsonl", "line 13", "gold"),
    ),
    "choices that are numbers": (
        lambda folder: spoil(folder / QUESTIONS, '{"query": "q", "choices": [1, 2], "gold": 0}'),
        ("copa.jsonl", "line 13", "choices"),
    ),
    "no questions": (lambda folder: (folder / QUESTIONS).write_text(""), ("copa.jsonl", "empty")),
    "data outside of the bundle": (
        lambda folder: tasks(folder, lambda t: t.update(dataset_uri="../../../../../../etc/passwd")),
        ("core.yaml", "passwd"),
    ),
}


@pytest.fixture
def ask(refused, here, pretrained) -> Callable[..., str]:
    """Ask CORE's questions of a bundle to the small model."""
    shutil.copytree(pretrained / "pretrain", here / "mine")
    words = "eval mine --tasks core_copa --limit 2 --no_cache --cache_dir cache --core_bundle"
    return lambda bundle, *culprits: refused(f"{words} {bundle}", *culprits)


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_bundle_is_refused_by_file_and_line(ask, here, case):
    breaks, culprits = BROKEN[case]
    breaks(write_bundle(here / "bundle"))
    ask("bundle", "core_bundle", *culprits)


@pytest.mark.parametrize("case", ["half of the zip", "a flipped byte", "no zip", "an empty folder", "nothing there"])
def test_a_bundle_that_cannot_be_opened_is_refused(ask, here, case):
    path = zipped(write_bundle(here / "bundle"))
    data = path.read_bytes()
    if case == "half of the zip":
        path.write_bytes(data[: len(data) // 2])
    elif case == "a flipped byte":
        middle = data.index(b"icl_tasks") if b"icl_tasks" in data else len(data) // 8
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :])
    elif case == "no zip":
        path.write_text("no zip")
    elif case == "an empty folder":
        path.unlink()
        path.mkdir()
    else:
        path.unlink()
    ask(path.name, "core_bundle", path.name)
