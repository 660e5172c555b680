"""Reads a flat YAML file into the typed fields of a dataclass."""

import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .atomic import read_yaml
from .classes import Classes
from .errors import UserError
from .limits import check_numbers, shorten


def read_fields(path: Path, wanted: type, beside: type, text: str | None = None) -> dict[str, Any]:
    """Returns the fields of `wanted` in the file, with their types. Ignores those of `beside`. UserError for others."""
    values = read_yaml(path, text)
    types, others = typing.get_type_hints(wanted), typing.get_type_hints(beside)
    if unknown := sorted(set(values) - set(types) - set(others)):
        names = shorten(", ".join(unknown), 200)
        raise UserError(f"{path}: unknown key {names}; known are {', '.join(types | others)}")
    fields = {key: convert(path, key, types[key], value) for key, value in values.items() if key in types}
    check_numbers(fields, path)
    return fields


def convert(path: Path, key: str, wanted: Any, value: object) -> Any:
    """Converts `value`, text from `read_yaml`, to the type of the field. Whole numbers are exact."""
    if typing.get_origin(wanted) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{path}: {key} is {describe(value)}; wanted a list, e.g. [a, b]")
        return tuple(convert(path, key, get_value_type(wanted), item) for item in value)
    if value in NULLS and type(None) in typing.get_args(wanted):
        return None
    kind = get_value_type(wanted)
    if kind is Classes:
        return Classes.from_entries(value if isinstance(value, dict) else {"classes": value}, path)
    try:
        return CONVERTERS[kind](value)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
        raise UserError(f"{path}: {key} is {describe(value)}; wanted {kind.__name__}") from None


def get_value_type(hint: Any) -> type:
    """Returns the type of one value: int for `int`, `int | None` and `tuple[int, ...]`."""
    return next(iter(typing.get_args(hint)), hint)


def convert_int(text: str) -> int:
    """Accepts `5`, `1_000`, `5.0` and `1e3`. The result is exact."""
    try:
        return int(text)
    except ValueError:
        number = float(text)
        if number != int(number) or abs(number) > 2**53:
            raise
        return int(number)


def convert_str(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError
    return text


def describe(value: object) -> str:
    """Returns a short text for a message. YAML aliases make huge lists from small files, so lists are not shown."""
    return shorten(repr(value)) if isinstance(value, str) else "a list" if isinstance(value, list) else "a mapping"


NULLS = ("", "~", "null", "Null", "NULL")  # the spellings of YAML 1.1
BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
CONVERTERS: dict[type, Callable[[Any], Any]] = {
    int: convert_int,
    float: float,
    str: convert_str,
    bool: lambda text: BOOLEANS[text.lower()],
}
