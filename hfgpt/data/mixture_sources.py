"""The sources of `midtrain.mixture`: each a map with keys of section `data`, checked as a recipe's own section is."""

import typing
from dataclasses import replace
from typing import Any

from hfgpt.arguments import DataArguments
from hfgpt.errors import UserError
from hfgpt.recipe_values import coerce

# Of section `data`, what may differ from source to source; the rest holds for all of them.
SOURCE_KEYS = (
    *(
        "dataset",
        "dataset_config",
        "dataset_split",
        "dataset_revision",
        "num_shards",
        "data_path",
        "format",
        "columns",
    ),
    *("content", "gutenberg_books", "document_separator", "min_document_chars", "validation_fraction"),
    *("validation_tokens", "tokens_threshold"),
)
# The tiny world tells facts and answers questions; elsewhere the usual web text and chats stand in.
TINY_WORLD_MIXTURE: list[dict[str, Any]] = [
    {"dataset": "tinyworld", "weight": 0.7},
    {"dataset": "tinyworld", "content": "chat", "weight": 0.3},
]
DEFAULT_MIXTURE: list[dict[str, Any]] = [
    {"dataset": "HuggingFaceFW/fineweb-edu", "dataset_config": "sample-10BT", "num_shards": 1, "weight": 0.7},
    {"dataset": "HuggingFaceTB/smoltalk", "dataset_config": "all", "content": "chat", "weight": 0.3},
]


def sources_of(mixture: list[dict[str, Any]], data: DataArguments, place: str) -> list[tuple[DataArguments, float]]:
    """Each source as a section `data` of its own, and its weight; `place` leads a user to the mixture.

    Raises UserError for an unknown key, a value of the wrong kind, or a weight that is not above zero.
    """
    hints = typing.get_type_hints(DataArguments)
    plain = replace(data, **{key: getattr(DataArguments(), key) for key in SOURCE_KEYS[:8]}, gutenberg_books=[])
    plain = replace(plain, streaming=False, prepared=None, content="text")
    sources = []
    for number, wanted in enumerate(mixture, start=1):
        values = {}
        for key, value in wanted.items():
            if key != "weight" and key not in SOURCE_KEYS:
                raise UserError(
                    f"{place}: source {number} has a key {key}; known are weight, {', '.join(SOURCE_KEYS)}."
                )
            try:
                values[key] = coerce(value, float if key == "weight" else hints[key])
            except ValueError as error:
                raise UserError(f"{place}: {key} of source {number} {error}.") from None
        if not values.keys() & {"dataset", "data_path"}:
            raise UserError(f"{place}: source {number} needs a dataset or a data_path.")
        weight = values.pop("weight", None)
        if weight is None or weight <= 0:
            raise UserError(f"{place}: source {number} needs a weight above zero, not {weight}.")
        sources.append((replace(plain, **values), weight))
    return sources
