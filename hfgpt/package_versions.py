"""Versions of installed packages, read from their metadata: none is imported."""

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

STACK = ("torch", "transformers", "trl", "accelerate", "datasets", "tokenizers", "lm_eval")  # what results depend on


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Versions by name, in the order given; what is not installed is left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
