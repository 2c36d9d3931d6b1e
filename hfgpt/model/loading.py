"""A trained model as the start of another run: it must be ours, and its vocabulary must be the tokenizer's."""

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from hfgpt.errors import UserError
from hfgpt.model import GPTConfig, GPTForCausalLM  # registers with the Auto classes


def load_model(
    name_or_path: str, tokenizer: PreTrainedTokenizerBase, max_length: int, attn_implementation: str | None = None
) -> GPTForCausalLM:
    """The model in `name_or_path` (a folder or a Hub id) in float32, ready for rows of `max_length` tokens made with
    `tokenizer`. Tokens that the tokenizer has beyond the model's own (chat tokens) are added to the model.

    Raises UserError for a model that cannot be read, is not hfgpt's, has another vocabulary or too few positions.
    """
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name_or_path, dtype=torch.float32, attn_implementation=attn_implementation
        )
        own = AutoTokenizer.from_pretrained(name_or_path).get_vocab()
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"{name_or_path} cannot be loaded as a model: {' '.join(str(error).split())}") from None
    if not isinstance(model.config, GPTConfig) or not isinstance(model, GPTForCausalLM):
        raise UserError(
            f"{name_or_path} is a {model.config.model_type} model; training goes on from hfgpt models only."
        )
    wanted = tokenizer.get_vocab()
    if any(wanted.get(token) != token_id for token, token_id in own.items()):
        raise UserError(
            f"{name_or_path} was trained with another tokenizer: set tokenizer.name_or_path to {name_or_path} and use "
            "an --output_root of its own."
        )
    config = model.config
    if config.position_embedding_type == "learned" and max_length > config.max_position_embeddings:
        raise UserError(
            f"{name_or_path} has {config.max_position_embeddings:,} positions: set data.max_length to that or less, "
            f"not {max_length:,}."
        )
    if len(wanted) > config.vocab_size:
        model.resize_token_embeddings(len(wanted))
    return model
