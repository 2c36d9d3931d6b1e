"""What of a folder reaches the Hub, and what of a repo a push takes away: the model's own files, nobody else's."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from hub_server import HubServer
from huggingface_hub import ModelCard

from hfgpt.errors import UserError
from hfgpt.hub.command import main
from hfgpt.hub.stage_pushes import CheckpointPushes
from hfgpt.model.configuration_gpt import SOURCE_FILES
from hfgpt.model.saved_files import own_code, saved_files
from hfgpt.training.arguments import PretrainArguments

TEMPLATE = "additional_chat_templates/tool_use.jinja"


def scripts(hub: HubServer) -> set[str]:
    return {path for path in hub.files("tester/tiny", "model") if path.endswith(".py")}


def test_scripts_that_are_not_the_models_neither_go_to_the_hub_nor_vanish_there(hub, run_folder, tmp_path):
    hub.add_model("tester/tiny", {"handler.py": b"of the endpoint", "tools/handler.py": b"of the endpoint"})
    folder = run_folder / "sft"
    (folder / "handler.py").write_text("of this machine")
    (folder / "notes_to_self.py").write_text("of this machine")
    main([str(folder), "tester/tiny"])
    assert scripts(hub) == {"handler.py", "tools/handler.py", *SOURCE_FILES}
    assert hub.files("tester/tiny", "model")["handler.py"] == b"of the endpoint"
    native = tmp_path / "native"
    shutil.copytree(folder, native, ignore=shutil.ignore_patterns(*SOURCE_FILES, "*.jsonl", "checkpoint-*"))
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (native / "config.json").write_text(json.dumps(config))
    main([str(native), "tester/tiny"])
    assert scripts(hub) == {"handler.py", "tools/handler.py"}


def test_code_is_what_the_configs_name_and_what_that_imports(run_folder):
    assert set(own_code()) == set(SOURCE_FILES)
    folder = run_folder / "sft"
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "mine.Config", "AutoModel": "org/elsewhere--other.Model"}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer["auto_map"] = {"AutoTokenizer": ["words.Slow", None]}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    for name, text in (("mine", "from .part import X"), ("part", "import os"), ("words", ""), ("other", "")):
        (folder / f"{name}.py").write_text(text + "\n")
    assert {name for name in saved_files(folder) if name.endswith(".py")} == {"mine.py", "part.py", "words.py"}
    (folder / "part.py").unlink()
    with pytest.raises(UserError, match="lacks part.py, which mine.py names"):
        saved_files(folder)


PRIVATE = {
    "data": {"data_path": ["/home/alice/diary", "~/letters/*.txt", "file:///home/alice/x.txt"]},
    "midtrain": {
        "mixture": [{"data_path": "C:\\Users\\alice\\novel.txt", "document_separator": "/end/", "weight": 1}]
    },
    "sft": {"model_name_or_path": "/home/alice/model/", "sample_prompts": ["/home is"], "deepspeed": {"at": "~alice"}},
}
PUBLISHED = {
    "data": {"data_path": ["diary", "*.txt", "x.txt"]},
    "midtrain": {"mixture": [{"data_path": "novel.txt", "document_separator": "/end/", "weight": 1}]},
    "sft": {"model_name_or_path": "model", "sample_prompts": ["/home is"], "deepspeed": {"at": "~"}},
}


def test_paths_of_this_machine_stay_here_and_a_recipe_without_them_goes_as_it_is(hub, run_folder):
    recipe = run_folder / "sft" / "recipe.yaml"
    for text, published in (
        (yaml.safe_dump(PRIVATE), yaml.safe_dump(PUBLISHED, sort_keys=False)),
        (plain := "# mine\nsft: {dataset: org/chats, output_dir: ../here}\n", plain),
    ):
        recipe.write_text(text)
        main([str(run_folder / "sft"), "tester/tiny"])
        there = hub.files("tester/tiny", "model")
        assert yaml.safe_load(there["recipe.yaml"]) == yaml.safe_load(published) and recipe.read_text() == text
        assert not any(b"alice" in data for data in there.values())
    assert there["recipe.yaml"].decode() == plain


def test_more_than_one_chat_template_reaches_the_hub_from_a_stage_and_from_its_checkpoints(
    hub, reciting_chat_model, run_folder
):
    stage = run_folder / "sft"
    shutil.copytree(reciting_chat_model, stage / "checkpoint-2", dirs_exist_ok=True)
    for folder in (stage, stage / "checkpoint-2"):
        (folder / TEMPLATE).parent.mkdir()
        (folder / TEMPLATE).write_text("{{ messages }}")
    (stage / "recipe.yaml").write_text(yaml.safe_dump(PRIVATE))
    args = PretrainArguments(output_dir=str(stage), use_cpu=True, hub_model_id="tester/tiny")
    pushes = CheckpointPushes(args, stage)
    pushes.push(stage / "checkpoint-2")
    assert pushes._thread is not None
    pushes._thread.join()
    there = hub.files("tester/tiny", "model")
    assert there[TEMPLATE] == b"{{ messages }}" and yaml.safe_load(there["recipe.yaml"]) == PUBLISHED
    assert "conversational" in ModelCard(there["README.md"].decode()).data.tags
    main([str(stage), "tester/whole"])
    assert hub.files("tester/whole", "model")[TEMPLATE] == b"{{ messages }}"
    shutil.rmtree(stage / Path(TEMPLATE).parent)
    main([str(stage), "tester/whole"])
    assert TEMPLATE not in hub.files("tester/whole", "model")
