"""A value from YAML or a flag as the type that a dataclass field asks for, or a ValueError with what was wanted."""

import math
import reprlib
import types
import typing
from enum import Enum
from typing import Any, Literal, Union

import yaml

LONGEST_SHOWN = 120  # characters of a value in a sentence
LARGEST_NUMBER = 10**300  # of whole numbers, so that each can be a float too


def coerce(value: Any, hint: Any) -> Any:
    """`value` (from YAML or a flag) as the type that `hint` asks for; ValueError says what was wanted."""
    if hint is Any:
        return value
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in options:
            return None
        for option in sorted((o for o in options if o is not type(None)), key=_preference):
            try:
                return coerce(value, option)
            except ValueError:
                continue
        raise ValueError(f"must be {_describe(hint)}, not {shown(value)}")
    if origin is Literal:
        if value in options:
            return value
    elif hint is bool:
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in {"true", "yes", "on", "false", "no", "off"}:
            return value.lower() in {"true", "yes", "on"}
    elif hint is int and not isinstance(value, bool):
        number = _number(value)
        if number is not None and number == int(number):
            return int(number)
    elif hint is float and not isinstance(value, bool):
        number = _number(value)
        if number is not None:
            return float(number)
    elif hint is str:
        if isinstance(value, str):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    elif isinstance(hint, type) and issubclass(hint, Enum):
        if value in [option.value for option in hint]:
            return value
    elif (origin or hint) is list:
        items = value if isinstance(value, list) else [value] if value is not None else []
        if not isinstance(value, dict):
            return [coerce(item, options[0]) for item in items] if options else items
    elif (origin or hint) is dict:
        parsed = from_yaml(value) if isinstance(value, str) else value
        if isinstance(parsed, dict):
            if not options:
                return parsed
            return {coerce(k, options[0]): coerce(v, options[1]) for k, v in parsed.items()}
    elif isinstance(hint, type) and isinstance(value, hint) and not isinstance(value, bool):
        return value
    raise ValueError(f"must be {_describe(hint)}, not {shown(value)}")


def from_yaml(text: str) -> Any:
    """The value that a flag writes as YAML. Raises ValueError where it is none."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ValueError(f"is no value in YAML: {shown(text)}") from None


def as_yaml(value: Any) -> str:
    """YAML that reads back as `value`: keys in their order, letters of every language as they are."""
    text = yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
    # PyYAML would write U+0085 as it is, and reads it as the end of a line.
    return yaml.safe_dump(value, sort_keys=False) if "\x85" in text else text


def shown(value: Any) -> str:
    """The value in a sentence: as Python writes it, and shortened where it is long."""
    short = reprlib.Repr()
    short.maxstring = short.maxlong = short.maxother = LONGEST_SHOWN
    return short.repr(value)


def _number(value: Any) -> int | float | None:
    """A finite number written as YAML or a flag may write it: 3, 1e9, 3e-4, 10_000."""
    if isinstance(value, str):
        try:
            value = int(value.replace("_", ""))
        except ValueError:
            try:
                value = float(value)
            except ValueError:
                return None
    if isinstance(value, int):
        return value if abs(value) < LARGEST_NUMBER else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def _preference(option: Any) -> int:
    """Try narrow types before str, which takes nearly everything."""
    order = [bool, int, float, dict, list, str]
    base = typing.get_origin(option) or option
    return order.index(base) if base in order else 4


def _describe(hint: Any) -> str:
    """Words for a type, as a user knows it."""
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("null" if o is type(None) else _describe(o) for o in options)
    if origin is Literal:
        return f"one of {', '.join(map(str, options))}"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(str(option.value) for option in hint)}"
    plain = {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        str: "text",
        list: "a list",
        dict: "a map",
    }
    if origin is list and options:
        return f"a list of {_describe(options[0]).removeprefix('a ')}"
    return plain.get(origin or hint, str(hint))
