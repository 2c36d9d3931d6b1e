"""`hfgpt --version` says which stack it stands on."""

import platform
from pathlib import Path

import hfgpt
from hfgpt.cli import main
from hfgpt.package_versions import installed_versions


def test_the_version_comes_with_those_of_the_stack(capsys):
    import datasets
    import torch
    import transformers

    assert main(["--version"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [f"hfgpt {hfgpt.__version__}", f"Python {platform.python_version()}"]
    for package in (torch, transformers, datasets):
        assert f"{package.__name__} {package.__version__}" in lines


def test_what_is_not_installed_is_left_out():
    import typer

    assert installed_versions(["no_such_package", "typer"]) == {"typer": typer.__version__}


def test_the_changelog_begins_with_this_version():
    lines = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    newest = next(line for line in lines if line.startswith("## "))
    assert newest.split()[1] == hfgpt.__version__
