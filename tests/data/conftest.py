"""Tokenizers that the tests of data share."""

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hfgpt.data.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def texts() -> list[str]:
    rng = random.Random(3)
    words = ["".join(rng.choice("etaoinshrdlu") for _ in range(rng.randrange(2, 9))) for _ in range(500)]
    lines = [" ".join(rng.choices(words, k=12)) + f", it's {rng.randrange(3000)}.\n" for _ in range(2000)]
    return ["".join(lines[start : start + 20]) for start in range(0, len(lines), 20)]


@pytest.fixture(scope="session")
def tokenizer(texts) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts, 700)


@pytest.fixture(scope="session")
def gpt2_folder(texts, tmp_path_factory) -> Path:
    """A folder as OpenAI's GPT-2 came: vocab.json and merges.txt, <|endoftext|> the last id."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    )
    folder = tmp_path_factory.mktemp("gpt2")
    backend.model.save(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    vocab["<|endoftext|>"] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    return folder
