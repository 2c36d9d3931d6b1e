"""The card of a pushed model, a stage or any other folder: whose words it has, and whether they are true."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from run_folders import falling_records, write_stage

from hfgpt.conversion import export_model
from hfgpt.hub.command import main
from hfgpt.report.model_card import model_card, write_model_cards
from hfgpt.report.timeline import open_timeline
from hfgpt.run_identity import is_on_hub

BY_TRL = "---\nlibrary_name: transformers\ntags:\n- generated_from_trainer\n- sft\n- trl\nlicence: license\n---\n\n"


def card_on(hub, repo_id: str) -> ModelCard:
    return ModelCard(hub.files(repo_id, "model")["README.md"].decode())


def test_words_of_a_person_below_the_header_of_a_tool_are_kept_here_and_on_the_hub(hub, run_folder):
    written = BY_TRL + "# My own words\n"
    readme = run_folder / "sft" / "README.md"
    readme.write_text(written)
    assert [path.parent.name for path in write_model_cards(open_timeline(run_folder))] == ["pretrain"]
    main([str(run_folder / "sft"), "tester/tiny"])
    assert readme.read_text() == written == hub.files("tester/tiny", "model")["README.md"].decode()


@pytest.mark.parametrize(("recorded", "named"), [(True, "models/gpt2"), (False, None), (None, None)])
def test_a_base_model_is_named_only_where_the_run_itself_saw_that_it_was_the_hubs(tmp_path, recorded, named):
    recipe = {"sft": {"model_name_or_path": "models/gpt2", "dataset": "org/chats", "data_path": "our/chats"}}
    identity = {} if recorded is None else {"start_is_on_hub": recorded}
    write_stage(tmp_path / "mine" / "sft", falling_records([100], [1.0]), recipe, identity=identity)
    timeline = open_timeline(tmp_path / "mine")
    card = ModelCard(model_card(timeline, timeline.stages[0]))
    assert card.data.base_model == named and card.data.datasets == ["org/chats"]


def test_a_folder_goes_before_a_repo_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_on_hub("models/gpt2") and not is_on_hub(None) and not is_on_hub(str(tmp_path))
    Path("models/gpt2").mkdir(parents=True)
    assert not is_on_hub("models/gpt2")


def test_the_card_of_any_folder_shows_how_this_model_is_loaded_and_used(hub, reciting_chat_model, tmp_path):
    native, base = tmp_path / "native", {"bos_token_id": 0, "eos_token_id": [0, 5]}
    export_model.main([str(reciting_chat_model), "--to", "gpt2", "--output_dir", str(native)])
    main([str(reciting_chat_model), "tester/ours"])
    main([str(native), "tester/native"])
    (native / "generation_config.json").write_text(json.dumps(base))
    main([str(native), "tester/base"])
    ours, theirs, text = (card_on(hub, f"tester/{name}") for name in ("ours", "native", "base"))
    assert ours.text.count("trust_remote_code=True") == 2 and "trust_remote_code" not in theirs.text + text.text
    assert all("apply_chat_template" in card.text and "Once upon" not in card.text for card in (ours, theirs))
    assert "Once upon a time" in text.text and "apply_chat_template" not in text.text
    assert theirs.data.tags == ["hfgpt", "conversational"] and text.data.tags == ["hfgpt"]
