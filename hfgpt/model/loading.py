"""A trained model as the start of another run: it must be ours, and its vocabulary must be the tokenizer's."""

from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from hfgpt.errors import UserError
from hfgpt.model import GPTConfig, GPTForCausalLM  # registers with the Auto classes
from hfgpt.model.downloads import over_a_bad_line

LONGEST_REASON = 400  # characters of what another library says


def load_model(
    name_or_path: str, tokenizer: PreTrainedTokenizerBase, max_length: int, attn_implementation: str | None = None
) -> GPTForCausalLM:
    """The model in `name_or_path` (a folder or a Hub id) in float32, ready for rows of `max_length` tokens made with
    `tokenizer`. Tokens that the tokenizer has beyond the model's own (chat tokens) are added to the model, and a
    context longer than its own is written into its config; attention windows and `rope_theta` stay.

    Raises UserError for a model that cannot be read, is not hfgpt's, has another vocabulary or too few positions.
    """
    model = load_whole(name_or_path, dtype=torch.float32, attn_implementation=attn_implementation)
    try:
        own = AutoTokenizer.from_pretrained(name_or_path).get_vocab()
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        raise UserError(f"the tokenizer in {name_or_path} cannot be loaded: {_in_short(error)}") from None
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
    config.max_position_embeddings = max(max_length, config.max_position_embeddings)
    if len(wanted) > config.vocab_size:
        model.resize_token_embeddings(len(wanted))
    return model


def load_whole(name_or_path: str, **settings: Any) -> PreTrainedModel:
    """The model in `name_or_path` by `AutoModelForCausalLM.from_pretrained`, with every weight from its files:
    transformers would draw at random what is missing there, and says so in a warning.

    Raises UserError for a model that cannot be read, lacks weights, or, being ours, has weights without a place.
    """
    try:
        read: Any = partial(AutoModelForCausalLM.from_pretrained, name_or_path, output_loading_info=True, **settings)
        model, found = over_a_bad_line(name_or_path, read)
    except UserError:
        raise
    except Exception as error:  # of torch, safetensors, huggingface_hub and the model's own code
        raise UserError(f"{name_or_path} cannot be loaded as a language model: {_in_short(error)}") from error
    missing = sorted(found["missing_keys"]) + [name for name, *_ in found["mismatched_keys"]]
    unplaced = sorted(found["unexpected_keys"]) if isinstance(model.config, GPTConfig) else []
    if missing or unplaced:
        what = f"lack {missing[0]}" if missing else f"hold {unplaced[0]}, for which its config.json has no place"
        others = f" ({len(missing or unplaced)} such)" if len(missing or unplaced) > 1 else ""
        raise UserError(f"{name_or_path} is no whole model: its weights {what}{others}; put a whole copy there.")
    return model


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:LONGEST_REASON] or type(error).__name__
