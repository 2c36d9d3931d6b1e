"""The Hub's stand-in as the Hub of this process, and a run of two stages whose models know one sentence."""

import json
from pathlib import Path

import pytest
from huggingface_hub import HfApi, close_session, constants
from reciting_model import save_reciting_model
from run_folders import falling_records, write_stage

QUESTION, ANSWER = "Who are you?", "I am Tiny, and I know one sentence."


@pytest.fixture
def hub(hub_server, monkeypatch, tmp_path):
    """The stand-in, where every client of this process goes, with an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    template = hub_server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub_cache"))
    monkeypatch.setenv("HF_TOKEN", hub_server.token)
    yield hub_server
    close_session()


@pytest.fixture
def api(hub) -> HfApi:
    return HfApi()


@pytest.fixture(scope="session")
def reciting_chat_model(tmp_path_factory) -> Path:
    """A chat model that answers QUESTION with ANSWER, saved with its tokenizer and code."""
    from hfgpt.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([QUESTION, ANSWER] * 4, vocab_size=300)
    return save_reciting_model(tmp_path_factory.mktemp("model"), tokenizer, ANSWER, question=QUESTION)


@pytest.fixture
def run_folder(reciting_chat_model, tmp_path) -> Path:
    """`runs/tiny` with pretrain and sft, complete, and with what must never leave this machine."""
    run = tmp_path / "runs" / "tiny"
    for stage in ("pretrain", "sft"):
        recipe = {"data": {"dataset": "org/texts"}, stage: {"max_steps": 2}}
        scores = {"skill": {"acc": 0.75, "stderr": 0.05}}
        folder = write_stage(run / stage, falling_records([3600, 7200], [1.5, 1.0]), recipe, scores=scores)
        samples = [{"step": step, "prompt": QUESTION, "completion": said} for step, said in ((0, "a"), (2, ANSWER))]
        (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
        (folder / "loss.png").write_bytes(b"\x89PNG\r\n\x1a\n of this stage")
        for path in reciting_chat_model.iterdir():
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "checkpoint-2").mkdir()
        for left in ("training_args.bin", "checkpoint-2/optimizer.pt", "checkpoint-2/model.safetensors", "notes.txt"):
            (folder / left).write_bytes(b"not for the Hub")
    return run
