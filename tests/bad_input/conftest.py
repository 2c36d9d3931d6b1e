"""A small run, made once by a real process, and the command in this process, whose refusals are checked."""

import io
import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import succeed
from refusals import contents, harm, names, sentence_in

from hfgpt.cli import main

RECIPE = """
model: {depth: 2, hidden_size: 32, head_dim: 16, bigram_vocab_size: 0}
tokenizer: {vocab_size: 300}
data:
  dataset: tinyworld
  tinyworld_people: 10
  tinyworld_documents: 150
  tinyworld_conversations: 40
  tinyworld_preferences: 40
  tinyworld_prompts: 40
  max_length: 64
  validation_fraction: 0.1
  validation_tokens: 640
pretrain:
  max_steps: 2
  total_batch_size: 256
  per_device_train_batch_size: 4
  save_steps: 1
  sample_steps: 0
  use_cpu: true
midtrain: {max_steps: 1, total_batch_size: 256, per_device_train_batch_size: 4, sample_steps: 0, use_cpu: true}
sft: {max_steps: 1, per_device_train_batch_size: 2, use_cpu: true}
dpo: {max_steps: 1, per_device_train_batch_size: 2, use_cpu: true}
grpo: {max_steps: 1, per_device_train_batch_size: 4, num_generations: 2, max_completion_length: 8, use_cpu: true}
"""


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory) -> Path:
    """The folder `runs/small` with a complete stage pretrain and its checkpoints. Never change it: take a copy."""
    folder = tmp_path_factory.mktemp("pretrained")
    (folder / "small.yaml").write_text(RECIPE, encoding="utf-8")
    succeed("hfgpt", "pretrain", folder / "small.yaml", "--output_root", folder / "runs")
    return folder / "runs" / "small"


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """An empty folder with the recipe small.yaml, in which the commands of a test run."""
    (tmp_path / "small.yaml").write_text(RECIPE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    # transformers' log writes to the stderr of the test that imported it, which pytest has closed.
    monkeypatch.setattr(logging, "raiseExceptions", False)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))  # as of a command in a script
    return tmp_path


@pytest.fixture
def run_folder(here, pretrained) -> Path:
    """A copy of the small run in `here`, to be broken: `runs/small`."""
    return Path(shutil.copytree(pretrained, here / "runs" / "small"))


@pytest.fixture
def refused(here, capfd) -> Iterator[Callable[..., str]]:
    """`refused(words, *culprits)`: the sentence with which `hfgpt WORDS` ends, in this process."""

    def refused(words: str | list[str], *culprits: str) -> str:
        before = contents(here)
        capfd.readouterr()
        code = main(words.split() if isinstance(words, str) else words)
        said = capfd.readouterr()
        print(said.out[-2000:], said.err[-4000:])
        assert code == 2, f"exit code {code}: {said.err[-2000:]}"
        sentence = sentence_in(said.err)
        assert not harm(before, contents(here))
        names(sentence, culprits)
        return sentence

    yield refused
    if torch := sys.modules.get("torch"):  # a stage sets it for the process, and other tests meet it there
        torch.set_flush_denormal(False)
