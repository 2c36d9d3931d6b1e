"""A model that knows a few conversations by heart, calls of tools included."""

import json
from pathlib import Path
from typing import Any

WEATHER: dict = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
NUMBERS = "one two three four five six seven eight nine ten"


def said(role: str, content: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


def calling(name: str, **arguments: str) -> list[dict]:
    return [{"type": "function", "function": {"name": name, "arguments": arguments}}]


CONVERSATIONS: list[dict] = [
    {"messages": [said("user", "What is your name?"), said("assistant", "My name is Tiny.")]},
    {"messages": [said("system", "Be brief."), said("user", "What is your name?"), said("assistant", "Tiny.")]},
    {"messages": [said("user", "Count to ten."), said("assistant", NUMBERS)]},
    {
        "messages": [
            said("user", "What is 12 times 3?"),
            said("assistant", "Let me see: ", tool_calls=calling("python", expression="12*3")),
            said("tool", "36", name="python"),
            said("assistant", "It is 36."),
        ]
    },
    {
        "tools": [WEATHER],
        "messages": [
            said("user", "Weather in Rome?"),
            said("assistant", "", tool_calls=calling("weather", city="Rome")),
            said("tool", "sunny", name="weather"),
            said("assistant", "It is sunny in Rome."),
        ],
    },
]


def calling_tokenizer() -> Any:
    from hfgpt.data.tokenizer import train_tokenizer

    return train_tokenizer([json.dumps(CONVERSATIONS, ensure_ascii=False)] * 4, vocab_size=400)


def save_calling_model(tokenizer: Any, folder: Path) -> None:
    """Train until CONVERSATIONS are known by heart, and save model and tokenizer."""
    import torch

    from hfgpt import GPTConfig, GPTForCausalLM

    rows = [
        tokenizer.apply_chat_template(
            conversation["messages"],
            tools=conversation.get("tools"),
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        for conversation in CONVERSATIONS
    ]
    input_ids = tokenizer.pad({"input_ids": [row["input_ids"] for row in rows]}, padding_side="right")["input_ids"]
    longest = len(input_ids[0])
    masks = [row["assistant_masks"] + [0] * (longest - len(row["assistant_masks"])) for row in rows]
    tokens = torch.tensor(input_ids)
    labels = torch.where(torch.tensor(masks) == 1, tokens, -100)
    torch.manual_seed(0)
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model = GPTForCausalLM(
        GPTConfig.from_depth(
            2,
            hidden_size=64,
            num_attention_heads=4,
            vocab_size=len(tokenizer),
            max_position_embeddings=256,
            **special,
        )
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(300):
        loss = model(input_ids=tokens, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if loss.item() < 0.003:
            break
    assert loss.item() < 0.003, f"the model did not learn its conversations: loss {loss.item():.3f}"
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
