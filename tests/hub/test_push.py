"""`hfgpt push` and `hfgpt space --push`, over real HTTP against the Hub's stand-in: what is there afterwards."""

import shutil
from importlib.util import find_spec

import pytest
from commands import sentence_of_failure, succeed
from huggingface_hub import ModelCard
from safetensors.numpy import save_file
from safetensors.torch import load_file

from hfgpt.chat import space
from hfgpt.errors import UserError
from hfgpt.hub.command import main

MODEL = {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
CODE = {"architecture.py", "configuration_gpt.py", "linear_cross_entropy.py", "modeling_gpt.py"}
RECORDS = {"metrics.jsonl", "evals.jsonl", "samples.jsonl", "loss.png", "final_metrics.json", "recipe.yaml"}


def push(*words: object) -> None:
    main([str(word) for word in words])


def card_of(hub, repo_id: str, **where: str) -> ModelCard:
    return ModelCard(hub.files(repo_id, "model", **where)["README.md"].decode())


def test_a_stage_goes_with_its_records_and_its_card_and_nothing_else(hub, run_folder, capsys):
    push(run_folder / "sft", "tester/tiny", "--license", "mit")
    assert f"is at {hub.url}/tester/tiny\n" in capsys.readouterr().out
    there = hub.files("tester/tiny", "model")
    assert MODEL | CODE | RECORDS | {"README.md", ".gitattributes"} <= set(there)
    assert set(there) - MODEL - CODE - RECORDS <= {"README.md", ".gitattributes", "chat_template.jinja", "__init__.py"}
    local = run_folder / "sft"
    assert all(there[name] == (local / name).read_bytes() for name in MODEL | RECORDS)
    card = card_of(hub, "tester/tiny")
    assert card.data.license == "mit" and card.data.tags == ["hfgpt", "sft", "conversational"]
    assert card.data.eval_results[0].metric_value == 0.75
    assert 'name = "tester/tiny"' in card.text and "![loss over tokens](loss.png)" in card.text
    assert "I am Tiny, and I know one sentence." in card.text
    assert hub.store.repos[("model", "tester/tiny")].private


def test_a_run_stands_for_its_latest_complete_stage_and_public_is_said(hub, run_folder):
    push(run_folder, "tester/tiny", "--public")
    assert not hub.store.repos[("model", "tester/tiny")].private
    assert card_of(hub, "tester/tiny").data.tags[1] == "sft"


def test_what_the_hub_has_is_not_sent_again_and_a_new_model_replaces_all_of_the_old(hub, run_folder, tmp_path):
    push(run_folder / "sft", "tester/tiny")
    repo = hub.store.repos[("model", "tester/tiny")]
    commits, uploads = len(repo.commits), hub.count("PUT", "/storage/")
    push(run_folder / "sft", "tester/tiny")
    assert len(repo.commits) == commits and hub.count("PUT", "/storage/") == uploads > 0
    hub.store.add_files(repo, {"onnx/model.safetensors": b"somebody's", "notes.md": b"somebody's"})
    other = tmp_path / "other"
    shutil.copytree(
        run_folder / "sft", other, ignore=shutil.ignore_patterns("*.jsonl", "checkpoint-*", "*.safetensors")
    )
    weights = load_file(run_folder / "sft" / "model.safetensors")
    names = list(weights)
    for n, part in ((1, names[:2]), (2, names[2:])):
        save_file({name: weights[name].numpy() for name in part}, other / f"model-0000{n}-of-00002.safetensors")
    push(other, "tester/tiny")
    there = set(hub.files("tester/tiny", "model"))
    assert {"model-00001-of-00002.safetensors", "onnx/model.safetensors", "notes.md"} <= there
    assert not there & {"model.safetensors", "metrics.jsonl"}


def test_a_branch_and_a_pull_request_leave_main_as_it_is(hub, run_folder, capsys):
    push(run_folder / "sft", "tester/tiny", "--revision", "v2")
    assert set(hub.files("tester/tiny", "model")) == {".gitattributes"}
    assert "model.safetensors" in hub.files("tester/tiny", "model", revision="v2")
    assert "/tester/tiny/tree/v2" in capsys.readouterr().out
    push(run_folder / "sft", "tester/tiny", "--create_pr", "--message", "A tiny model")
    repo = hub.store.repos[("model", "tester/tiny")]
    assert repo.pull_requests == ["A tiny model"] and "/tester/tiny/discussions/1" in capsys.readouterr().out
    assert "model.safetensors" in hub.files("tester/tiny", "model", revision="refs/pr/1")
    assert set(hub.files("tester/tiny", "model")) == {".gitattributes"}


def test_all_stages_name_the_one_before_and_lie_in_one_collection(hub, run_folder, capsys):
    for _ in range(2):  # the second time everything is there
        push(run_folder, "tester/tiny", "--all_stages", "--public", "--collection", "Tiny models")
    assert card_of(hub, "tester/tiny-pretrain").data.base_model is None
    assert card_of(hub, "tester/tiny-sft").data.base_model == "tester/tiny-pretrain"
    assert card_of(hub, "tester/tiny-pretrain").data.datasets == ["org/texts"]
    ((slug, collection),) = hub.store.collections.items()
    assert collection.title == "Tiny models" and not collection.private
    assert collection.items == [
        ("model", "tester/tiny-pretrain", "pretrain, stage 1 of 2"),
        ("model", "tester/tiny-sft", "sft, stage 2 of 2"),
    ]
    assert f"together at {hub.url}/collections/{slug}" in capsys.readouterr().out


def test_a_card_that_a_person_wrote_is_never_replaced_by_ours(hub, run_folder):
    written = "---\ntags:\n- mine\n---\n# My own words\n"
    (run_folder / "sft" / "README.md").write_text(written)
    push(run_folder / "sft", "tester/tiny", "--license", "mit")
    card = card_of(hub, "tester/tiny")
    assert card.text.strip() == "# My own words" and card.data.tags == ["mine"] and card.data.license == "mit"
    assert (run_folder / "sft" / "README.md").read_text() == written
    (run_folder / "sft" / "README.md").unlink()
    push(run_folder / "sft", "tester/tiny")
    assert "# My own words" in card_of(hub, "tester/tiny").text


def break_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def break_header(folder):
    (folder / "README.md").write_text("---\ntags: [a\n---\n# Mine\n")


def lose_shard(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "final_metrics.json").unlink(), "is not complete: finish it"),
        (break_weights, "model.safetensors is damaged"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no weights"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is no JSON object"),
        (lambda folder: (folder / "modeling_gpt.py").unlink(), "lacks modeling_gpt.py, which config.json names"),
        (lose_shard, "lacks model-00002-of-00002.safetensors"),
        (break_header, "the header is not YAML"),
    ],
)
def test_what_could_not_be_loaded_again_is_not_pushed(hub, run_folder, damage, sentence):
    damage(run_folder / "sft")
    with pytest.raises(UserError, match=sentence):
        push(run_folder / "sft", "tester/tiny")
    assert hub.requests == []


def test_who_may_not_push_is_told_so(hub, run_folder, monkeypatch):
    folder = run_folder / "sft"
    with pytest.raises(UserError, match="refused the token for other/tiny"):
        push(folder, "other/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(UserError, match="refused the token for tester/tiny"):
        push(folder, "tester/tiny")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setenv("HF_TOKEN_PATH", "/nowhere")
    with pytest.raises(UserError, match="pushing needs a token: log in with `hf auth login`"):
        push(folder, "tester/tiny")
    assert hub.store.repos == {}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tiny"], "REPO must be a repo of the Hub as you/tiny"),
        (["tester/tiny", "--create_pr", "--revision", "v2"], "leave --revision out"),
        (["tester/tiny", "--collection", "Mine"], "give --all_stages too"),
        (["tester/tiny", "--all_stages"], "has no complete stage"),
        (["tester/tiny", "--privat"], "--privat is not known"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(hub, run_folder, words, sentence):
    with pytest.raises(UserError, match=sentence):
        push(run_folder / "sft", *words)
    assert hub.requests == []


def test_the_command_pushes_with_the_hub_of_its_environment(hub_server, run_folder, tmp_path):
    done = succeed("hfgpt", "push", run_folder, "tester/tiny", **hub_server.env(tmp_path))
    assert f"is at {hub_server.url}/tester/tiny" in done.stdout and "model's licence" in done.stdout
    assert "model.safetensors" in hub_server.files("tester/tiny", "model")
    offline = hub_server.env(tmp_path, HF_HUB_OFFLINE="1")
    sentence = sentence_of_failure("hfgpt", "push", run_folder, "tester/tiny", **offline)
    assert "HF_HUB_OFFLINE is set: unset it" in sentence


@pytest.mark.skipif(find_spec("gradio") is None, reason="gradio is not installed")
def test_a_space_goes_to_the_hub_whole_and_loses_the_model_that_it_had(hub, run_folder, tmp_path, capsys):
    out = tmp_path / "space"
    (run_folder / "sft" / "additional_chat_templates").mkdir()
    (run_folder / "sft" / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    words = [str(run_folder), "--output_dir", str(out), "--push", "tester/chat"]
    space.main(words)
    repo = hub.store.repos[("space", "tester/chat")]
    assert repo.sdk == "gradio" and repo.private
    assert f"pushed to:    {hub.url}/spaces/tester/chat" in capsys.readouterr().out
    there = hub.files("tester/chat", "space")
    local = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert there == local and {"model/model.safetensors", "model/additional_chat_templates/tool_use.jinja"} < set(
        there
    )
    space.main([*words, "--overwrite", "--model_repo", "tester/tiny"])
    assert not any(path.startswith("model/") for path in hub.files("tester/chat", "space"))
    with pytest.raises(UserError, match="--push must be a repo"):
        space.main([*words[:-1], "chat"])
