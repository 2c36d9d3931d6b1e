"""`push_to_hub` in a stage: what reaches the Hub, and that the run is the same whatever the Hub does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from hfgpt import pretrain, sft
from hfgpt.errors import UserError
from hfgpt.hub import stage_pushes
from hfgpt.hub_client import Retries
from hfgpt.training.record import read_records

WORLD = """\
model: {depth: 2, hidden_size: 64}
tokenizer: {vocab_size: 500}
data: {dataset: tinyworld, tinyworld_documents: 300, tinyworld_conversations: 200, max_length: 128, num_proc: 1,
  validation_fraction: 0.05}
pretrain: {max_steps: 4, save_steps: 2, total_batch_size: 1024, per_device_train_batch_size: 8, sample_steps: 0,
  logging_steps: 1}
sft: {max_steps: 2, per_device_train_batch_size: 8, sample_max_new_tokens: 8, logging_steps: 1}
"""
QUIET = ["--disable_tqdm", "true"]
PUSH = ["--push_to_hub", "--hub_strategy", "every_save"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Folder with the recipe small.yaml, pretrained without a push."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "small.yaml").write_text(WORLD)
    pretrain.main([str(folder / "small.yaml"), "--output_root", str(folder / "runs"), *QUIET])
    return folder


@pytest.fixture
def pretrained(world, tmp_path, monkeypatch):
    """Pretrain again with these flags, pushes trying quickly; returns the stage's folder."""
    for name in ("PATIENCE", "LAST_PUSH"):
        monkeypatch.setattr(stage_pushes, name, Retries(attempts=2, base_seconds=0.01))
    root = tmp_path / "runs"
    for shared in ("tokenizer", "data"):
        shutil.copytree(world / "runs" / "small" / shared, root / "small" / shared)

    def run(*flags: str) -> Path:
        pretrain.main([str(world / "small.yaml"), "--output_root", str(root), *QUIET, *flags])
        return root / "small" / "pretrain"

    return run


def same_training(folder: Path, world: Path) -> bool:
    """Whether weights and losses are those of the run that pushed nothing."""
    quiet = world / "runs" / "small" / "pretrain"
    ours, others = load_file(folder / "model.safetensors"), load_file(quiet / "model.safetensors")
    losses = [[r["loss"] for r in read_records(f / "metrics.jsonl") if "loss" in r] for f in (folder, quiet)]
    return losses[0] == losses[1] and all(torch.equal(ours[name], others[name]) for name in others)


def titles(hub, repo_id: str) -> list[str]:
    return [commit.title for commit in hub.store.repos[("model", repo_id)].commits.values()]


def test_every_save_reaches_the_hub_and_the_end_with_card_and_records(hub, world, pretrained, capsys):
    folder = pretrained(*PUSH, "--hub_token", hub.token)
    assert same_training(folder, world)
    pushed = titles(hub, "tester/small-pretrain")
    assert "Training in progress, step 2" in pushed and pushed[-1] == "End of training"
    there = hub.files("tester/small-pretrain", "model")
    assert there["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    card = ModelCard(there["README.md"].decode())
    assert card.data.tags == ["hfgpt", "pretrain"] and 'name = "tester/small-pretrain"' in card.text
    assert there["metrics.jsonl"] == (folder / "metrics.jsonl").read_bytes()
    assert hub.store.repos[("model", "tester/small-pretrain")].private
    assert not any("checkpoint" in name or name.endswith((".bin", ".pt", ".pth")) for name in there)
    assert all(hub.token.encode() not in data for data in there.values())
    assert not any(hub.token.encode() in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert not (folder / "being-pushed").exists()
    assert f"pushed to {hub.url}/tester/small-pretrain" in capsys.readouterr().out


def test_a_hub_that_only_fails_changes_nothing_and_the_way_to_push_later_is_said(hub, world, pretrained, capsys):
    hub.faults.add(method="POST", path="/commit/", status=500, times=-1)
    folder = pretrained(*PUSH, "--hub_model_id", "tester/mine")
    assert same_training(folder, world)
    assert f"not pushed; do it later: hfgpt push {folder} tester/mine" in capsys.readouterr().out
    assert set(hub.files("tester/mine", "model")) == {".gitattributes"}
    assert json.loads((folder / "final_metrics.json").read_text())["steps"] == 4


def test_a_hub_out_of_reach_from_the_first_moment_does_not_keep_a_run_from_training(hub, world, pretrained, capsys):
    hub.faults.add(path="/api/", status=503, times=-1)
    folder = pretrained("--push_to_hub")
    assert same_training(folder, world)
    assert f"not pushed; do it later: hfgpt push {folder} small-pretrain" in capsys.readouterr().out


def test_a_token_that_may_not_write_is_told_before_the_first_step(hub, pretrained):
    with pytest.raises(UserError, match="refused the token for other/mine"):
        pretrained(*PUSH, "--hub_model_id", "other/mine")


def test_a_token_that_expired_since_does_not_stop_a_run_that_goes_on(hub, world, pretrained, capsys):
    folder = pretrained(*PUSH)
    (folder / "final_metrics.json").unlink()
    shutil.rmtree(folder / "checkpoint-4")
    hub.store.tokens.clear()
    assert pretrained(*PUSH) == folder and same_training(folder, world)
    printed = capsys.readouterr().out
    assert "going on from" in printed and "not pushed; do it later: hfgpt push" in printed


def test_a_chat_stage_pushes_too(hub, world, tmp_path):
    words = [str(world / "small.yaml"), "--output_root", str(world / "runs"), "--output_dir", str(tmp_path / "sft")]
    sft.main([*words, *QUIET, "--push_to_hub", "--hub_model_id", "tester/chat", "--hub_private_repo", "false"])
    there = hub.files("tester/chat", "model")
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "samples.jsonl"} <= set(there)
    assert not hub.store.repos[("model", "tester/chat")].private
    assert "conversational" in ModelCard(there["README.md"].decode()).data.tags
    assert not (tmp_path / "sft" / "README.md").exists()  # TRL would leave one
