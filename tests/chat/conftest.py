"""A chat model that has learnt five short conversations by heart, and a base model that has learnt nothing."""

from pathlib import Path
from typing import Any

import pytest


def _said(*turns: tuple[str, str]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in turns]


_NAME = (("user", "What is your name?"), ("assistant", "My name is Tiny."))
_COUNT = (("user", "Count to ten."), ("assistant", "one two three four five six seven eight nine ten"))
_CALL = {"type": "function", "function": {"name": "python", "arguments": {"expression": "12 + 30"}}}
CONVERSATIONS: tuple[list[dict[str, Any]], ...] = (
    _said(*_NAME),
    _said(*_COUNT),
    _said(("system", "Be brief."), _NAME[0], ("assistant", "Tiny.")),
    _said(*_NAME, *_COUNT),
    [
        *_said(("user", "What is 12 + 30?")),
        {"role": "assistant", "content": "It is ", "tool_calls": [_CALL]},
        {"role": "tool", "name": "python", "content": "42"},
        *_said(("assistant", "42.")),
    ],
)
MAX_LENGTH = 256


@pytest.fixture(scope="session")
def chat_tokenizer() -> Any:
    """A tokenizer of the chat format, with one token for each of these conversations' words."""
    from hfgpt.data.tokenizer import train_tokenizer

    texts = [message["content"] for conversation in CONVERSATIONS for message in conversation]
    return train_tokenizer(texts * 4, vocab_size=400)


def _new_model(tokenizer: Any, family: str) -> Any:
    """2 layers, 64 wide, of the depth series or of GPT-2's shape."""
    import torch

    from hfgpt import GPTConfig, GPTForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": len(tokenizer)}
    shape |= {"max_position_embeddings": MAX_LENGTH}
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = GPTConfig.from_depth(2, **shape, **tokens) if family == "depth" else GPTConfig(**shape, **tokens)
    return GPTForCausalLM(config)


def _saved(model: Any, tokenizer: Any, folder: Path, eos_token_id: int | list[int]) -> Path:
    model.generation_config.eos_token_id = eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Any) -> Path:
    """Folder of a model that answers "What is your name?" with "My name is Tiny." ("Tiny." under the system message
    "Be brief."), "Count to ten." with ten words and "What is 12 + 30?" by the calculator, and stops."""
    import torch

    rows = [
        chat_tokenizer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
        for messages in CONVERSATIONS
    ]
    batch = chat_tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, padding_side="right")
    input_ids = torch.tensor(batch["input_ids"])
    labels = torch.full_like(input_ids, -100)
    for index, row in enumerate(rows):
        supervised = torch.tensor(row["assistant_masks"], dtype=torch.bool)
        labels[index, : len(supervised)][supervised] = input_ids[index, : len(supervised)][supervised]
    model = _new_model(chat_tokenizer, "depth").train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(300):
        loss = model(input_ids=input_ids, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.005:
            break
    assert loss.item() < 0.005, f"the chat model did not learn its conversations: loss {loss.item():.3f}"
    folder = tmp_path_factory.mktemp("chat_model")
    return _saved(model, chat_tokenizer, folder, chat_tokenizer.eos_token_id)


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Any) -> Path:
    """Folder of an untrained base model, which would stop at <|bos|> and <|end|>, as pretraining leaves it."""
    folder = tmp_path_factory.mktemp("base_model")
    stops = [chat_tokenizer.bos_token_id, chat_tokenizer.eos_token_id]
    return _saved(_new_model(chat_tokenizer, "gpt2"), chat_tokenizer, folder, stops)
