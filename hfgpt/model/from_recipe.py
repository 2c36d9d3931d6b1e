"""The `model:` section of a recipe becomes a complete architecture. Imports no torch, so `hfgpt plan` is quick."""

import dataclasses
from typing import Any

from hfgpt.arguments import ModelArguments
from hfgpt.errors import UserError
from hfgpt.model.architecture import depth_series, gpt2_shape

DEFAULT_PRESET = "gpt2"


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
