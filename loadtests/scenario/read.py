"""TOML tables into frozen records by their fields' names; everything that is wrong is said at once."""

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from loadtests.figures import LoadTestError

Made = TypeVar("Made")
Table = Mapping[str, Any]

_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LoadTestError(f"{file} is not valid TOML: {error}") from error


def merge(table: Table, over: Table) -> dict[str, Any]:
    """Tables into tables; anything else, lists too, is replaced."""
    merged = dict(table)
    for key, value in over.items():
        is_table = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if is_table else value
    return merged


def build(kind: type[Made], table: Table, place: str = "") -> Made:
    """Raises LoadTestError with every key that is unknown or holds what it cannot."""
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(typing.cast(Any, kind))]
    problems: list[str] = []
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            problems.append(f"{place}{key}: unknown" + (f" (did you mean {near[0]}?)" if near else ""))
            continue
        try:
            values[key] = _value(hints[key], value, f"{place}{key}")
        except LoadTestError as error:
            problems.append(str(error))
    if problems:
        raise LoadTestError("; ".join(problems))
    try:
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise LoadTestError(f"{place or 'the file: '}{error}") from error


def _value(hint: Any, value: Any, place: str) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(typing.cast(type[Any], hint), value, f"{place}.")
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(inner[0], each, f"{place}[{n}]") for n, each in enumerate(value))
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {key: _value(inner[1], each, f"{place}.{key}") for key, each in value.items()}
    if hint is Any:
        return value
    return _scalar(hint, value, place)


def _scalar(hint: Any, value: Any, place: str) -> Any:
    accepted = (int, float) if hint is float else hint if hint in _NOUNS else ()
    # True is an int to Python, but not to a reader of the file.
    if not isinstance(value, accepted) or isinstance(value, bool) is not (hint is bool):
        raise LoadTestError(f"{place}: must be {_NOUNS.get(hint, 'a table or a list')}, not {value!r}")
    return float(value) if hint is float else value
