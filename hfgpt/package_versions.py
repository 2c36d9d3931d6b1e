"""Versions of installed packages, read from their metadata: none is imported."""

import functools
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


@functools.cache
def fsdp2_lets_head_be_skipped() -> bool:
    """Whether this torch completes a forward pass under FSDP2 that takes the head's weights and not its output, as the
    loss in chunks does. Older ones must build all logits."""
    major, minor = installed_versions(["torch"]).get("torch", "0.0").split(".")[:2]
    return (int(major), int(minor)) >= (2, 13)
