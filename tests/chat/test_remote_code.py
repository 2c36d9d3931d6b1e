"""Python code that comes with a model of others is run when it is asked for, and not otherwise."""

import io
import json
import shutil
from pathlib import Path

import pytest

from hfgpt.cli import main

CODE = """
from pathlib import Path
from transformers import PreTrainedConfig

Path({mark!r}).write_text("run")


class IntruderConfig(PreTrainedConfig):
    model_type = "intruder"
"""


@pytest.fixture(autouse=True)
def no_input(monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO()))


@pytest.fixture
def mark(tmp_path) -> Path:
    """The file that the code of `intruder` writes."""
    return tmp_path / "mark"


@pytest.fixture
def intruder(tmp_path, mark, base_model) -> Path:
    """A model's folder whose config.json and tokenizer_config.json name code that lies in it."""
    folder = tmp_path / "intruder"
    shutil.copytree(base_model, folder)
    for name in ("configuration_intruder", "tokenization_intruder"):
        (folder / f"{name}.py").write_text(CODE.format(mark=str(mark)))
    config = {"model_type": "intruder", "auto_map": {"AutoConfig": "configuration_intruder.IntruderConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer_config = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer_config |= {"tokenizer_class": "IntruderTokenizer"}
    tokenizer_config["auto_map"] = {"AutoTokenizer": [None, "tokenization_intruder.IntruderTokenizer"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    return folder


@pytest.mark.parametrize(
    "command", [["chat", "--prompt", "one"], ["serve", "--port", "0"], ["eval", "--tasks", "tinyworld_sums"]]
)
def test_code_of_a_foreign_model_is_not_run_unless_it_is_asked_for(command, intruder, mark, capsys):
    name, *flags = command
    assert main([name, str(intruder), *flags]) == 2
    assert "intruder" in capsys.readouterr().err
    assert not mark.exists()


def test_code_of_a_foreign_model_is_run_where_it_is_asked_for(intruder, mark):
    assert main(["chat", str(intruder), "--prompt", "one", "--trust_remote_code"]) == 2  # it has no model class
    assert mark.read_text() == "run"


def test_code_in_a_folder_of_our_own_model_is_left_alone(tmp_path, mark, base_model, capsys):
    """Our models carry their code for others; here the installed one is used."""
    folder = tmp_path / "ours"
    shutil.copytree(base_model, folder)
    for path in folder.glob("*.py"):
        path.write_text(CODE.format(mark=str(mark)))
    assert len(list(folder.glob("*.py"))) >= 2
    assert main(["chat", str(folder), "--prompt", "one", "--max_new_tokens", "2"]) == 0
    assert not mark.exists()
