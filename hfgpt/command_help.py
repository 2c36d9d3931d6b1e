"""The help of a command that takes a recipe: the flags that its dataclasses declare. They are read when help is asked
for, so that `hfgpt --help` imports none of them."""

import dataclasses
from importlib import import_module

from rich.console import Console
from rich.table import Table

EVERY_KEY = "Every key of the recipe is a flag too: docs/reference.md lists them."


def print_flags(declared_in: list[str]) -> None:
    """Print the flags of the dataclasses `declared_in` ("module:class"): the fields that say what they mean."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    for place in declared_in:
        module, _, name = place.partition(":")
        for field in dataclasses.fields(getattr(import_module(module), name)):
            if help := field.metadata.get("help"):
                table.add_row(f"--{field.metadata.get('flag', field.name)}", help + _default(field))
    console = Console(highlight=False)
    if table.row_count:
        console.print(" Flags:")
        console.print(table)
        console.print()
    console.print(f" {EVERY_KEY}")


def _default(field: dataclasses.Field) -> str:
    factory = field.default_factory
    value = factory() if factory is not dataclasses.MISSING else field.default
    if value is None or value == [] or isinstance(value, bool) or value is dataclasses.MISSING:
        return ""
    return f" (default: {value})"
