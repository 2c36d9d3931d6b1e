"""Small models of both families in folders, as a stage leaves them: random parameters, a tokenizer of the chat
format, and the source files that load without hfgpt."""

from pathlib import Path
from typing import Any

import pytest

CONVERSATIONS = (
    ("What is your name?", "My name is Tiny."),
    ("Count to five.", "one two three four five"),
    ("Where do you live?", "I live in a very small model."),
    ("What is 7 plus 8?", "7 plus 8 is 15."),
)
MAX_LENGTH = 256


@pytest.fixture(scope="session")
def conversations() -> list[list[dict[str, str]]]:
    """Messages, a question and an answer each."""
    return [
        [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        for question, answer in CONVERSATIONS
    ]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of GPT-2's shape ("gpt2"), and one of the depth series with every switch on and a window of 16 tokens
    ("depth")."""
    import torch

    from hfgpt import GPTConfig, GPTForCausalLM
    from hfgpt.data.tokenizer import train_tokenizer

    tokenizer = train_tokenizer([text for pair in CONVERSATIONS for text in pair] * 4, vocab_size=400)
    keys: dict[str, Any] = {
        name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    keys |= {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": len(tokenizer)}
    keys |= {"max_position_embeddings": MAX_LENGTH}
    switches = {"num_key_value_heads": 2, "sliding_window": 16, "smear": True, "backout": True}
    configs = {"gpt2": GPTConfig(**keys), "depth": GPTConfig.from_depth(3, **keys, **switches)}
    folders = {}
    for family, config in configs.items():
        torch.manual_seed(0)
        model = GPTForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():  # fresh, half of them are zero
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
        folders[family] = tmp_path_factory.mktemp(family)
        model.save_pretrained(folders[family])
        tokenizer.save_pretrained(folders[family])
    return folders


@pytest.fixture(params=["gpt2", "depth"])
def model_folder(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    """Each of the two in turn."""
    return folders[request.param]


@pytest.fixture(scope="session")
def tokenizer(folders: dict[str, Path]) -> Any:
    """Theirs."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folders["depth"])


@pytest.fixture
def model(model_folder: Path) -> Any:
    """The model as anyone loads it, in float32 and eval mode."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folder, trust_remote_code=True, dtype=torch.float32)
