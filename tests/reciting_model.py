"""A chat model that recites one text, whatever it is asked: for tests of what a page does with an answer."""

from pathlib import Path
from typing import Any


def save_reciting_model(folder: Path, tokenizer: Any, text: str, *, question: str = "", positions: int = 512) -> Path:
    """Save a model that, at each position, knows the one token of `text` that belongs there and looks at nothing else.

    Names of special tokens in `text` are those tokens. Asked `question` without a system prompt it answers with `text`
    and stops; without a question it says `text` over and over, from any place in it. `positions` is its context, in
    tokens.
    """
    import torch

    from hfgpt import GPTConfig, GPTForCausalLM

    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    begins = 0
    if question:
        asked = [{"role": "user", "content": question}]
        begins = len(tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)) - 1
        ids = [*ids, tokenizer.eos_token_id]
    config = GPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=len(ids),
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=positions,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = GPTForCausalLM(config)
    with torch.no_grad():
        for parameter in (model.model.embed_tokens.weight, model.model.embed_positions.weight, model.lm_head.weight):
            parameter.zero_()
        for linear in (model.model.layers[0].self_attn.o_proj, model.model.layers[0].mlp.down_proj):
            linear.weight.zero_()
        for position in range(positions):
            model.model.embed_positions.weight[position, (position - begins) % len(ids)] = 1.0
        for place, token in enumerate(ids):
            model.lm_head.weight[token, place] = 10.0
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
