"""A recipe as it goes to the Hub: without the places of the machine that it ran on."""

import re
from pathlib import Path
from typing import Any

from hfgpt.recipe import read_recipe_file
from hfgpt.recipe_values import as_yaml

# Absolute, below a home folder, on a drive or a share of Windows, or the same as an address.
PLACE = re.compile(r"/|~|[A-Za-z]:[\\/]|\\\\|file:/")
TEXT_KEYS = ("document_separator", "sample_prompts")  # a text may begin like a path


def published_recipe(path: Path) -> bytes:
    """The recipe in `path` with the last part alone of every path that says where on a machine it lies and whose that
    is. One without such a path stays as it is, comments included. Raises UserError where it cannot be read."""
    sections, _ = read_recipe_file(path)
    published = {name: _published(section) for name, section in sections.items()}
    if published == sections:
        return path.read_bytes()
    return as_yaml(published).encode()


def _published(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: inner if key in TEXT_KEYS else _published(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_published(inner) for inner in value]
    if not isinstance(value, str) or not PLACE.match(value):
        return value
    last = re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return "~" if last.startswith("~") else last or value  # "/" alone says nothing
