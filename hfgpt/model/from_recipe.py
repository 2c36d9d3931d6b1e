"""The `model:` section of a recipe becomes a complete architecture. Imports no torch, so `hfgpt plan` is quick."""

import dataclasses
from pathlib import Path
from typing import Any

from hfgpt.arguments import ModelArguments
from hfgpt.errors import UserError
from hfgpt.model.architecture import depth_series, gpt2_shape
from hfgpt.recipe import Recipe

DEFAULT_PRESET = "gpt2"


def vocabulary_of(recipe: Recipe) -> int:
    """Tokens of the model that this recipe trains, before its tokenizer is made.

    Raises UserError for a Hub's tokenizer that is not on this machine yet, where the recipe does not say its size.
    """
    tokenizer = recipe.tokenizer
    if tokenizer.name_or_path is None:
        return tokenizer.vocab_size
    folder = Path(tokenizer.name_or_path).expanduser()
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            found = try_to_load_from_cache(tokenizer.name_or_path, "tokenizer.json")
        except HFValidationError:
            raise UserError(
                f"tokenizer.name_or_path: {tokenizer.name_or_path} is neither a folder nor a Hub id."
            ) from None
        said_by = [recipe.given_by.get(("tokenizer", key)) for key in ("vocab_size", "name_or_path")]
        if isinstance(found, str):
            folder = Path(found).parent
        elif said_by[0] == "flag" or said_by[0] == said_by[1]:
            return tokenizer.vocab_size
        else:
            raise UserError(
                f"{tokenizer.name_or_path} has not been downloaded yet, so its vocabulary is not known: set "
                "tokenizer.vocab_size too, its own tokens and the chat tokens that are added."
            )
    from hfgpt.data.tokenizer import load_tokenizer

    return len(load_tokenizer(folder, tokenizer.add_chat_tokens, tell=lambda sentence: None))


def architecture_of(model: ModelArguments, vocab_size: int, max_length: int) -> dict[str, Any]:
    """Every architecture key, as keywords for GPTConfig: `depth` or `preset`, then the section's own switches.

    Raises UserError for a shape that cannot exist.
    """
    if model.depth is not None and model.preset is not None:
        raise UserError("model.depth and model.preset exclude each other; keep one of them.")
    if max_length < 2:
        raise UserError(f"data.max_length is {max_length}; a row needs at least 2 tokens.")
    not_switches = {"depth", "preset", "attn_implementation"}
    switches = {k: v for k, v in dataclasses.asdict(model).items() if v is not None and k not in not_switches}
    switches.update(vocab_size=vocab_size, max_position_embeddings=max_length)
    try:
        if model.depth is not None:
            return depth_series(model.depth, **switches)
        return gpt2_shape(model.preset or DEFAULT_PRESET, **switches)
    except ValueError as error:
        raise UserError(f"section model: {str(error)}") from None
