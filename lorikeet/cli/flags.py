"""Flags and TOML keys from the fields of a frozen dataclass.

    max_rank: int = option(256, "highest rank")   ->   --max-rank N   highest rank (default: 256)

A flag wins over the file, the file over the field's default.
"""

import argparse
import dataclasses
import difflib
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from lorikeet.cli.command import UsageError

Config = TypeVar("Config")

_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
_NOUNS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path as text",
}


def add_flags(parser: argparse.ArgumentParser, config: type[Any]) -> None:
    """One flag for each field of the dataclass; flags that are not given leave no attribute behind."""
    for field, kind in _fields(config):
        flag = "--" + field.name.replace("_", "-")
        options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": field.name, "help": _help(field)}
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        else:
            parser.add_argument(flag, type=kind, metavar=_METAVARS[kind], **options)


def read_flags(config: type[Config], args: argparse.Namespace, file: Path | None = None) -> Config:
    """The dataclass from flags and, beneath them, a TOML file; raises UsageError with all that is wrong."""
    fields = _fields(config)
    values = {} if file is None else _read_toml(file, fields)
    values |= {field.name: getattr(args, field.name) for field, _ in fields if hasattr(args, field.name)}
    missing = [field.name for field, _ in fields if _is_required(field) and field.name not in values]
    if missing:
        flags = ", ".join("--" + name.replace("_", "-") for name in missing)
        raise UsageError(f"missing: {flags}")
    try:
        return config(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _fields(config: type[Any]) -> list[tuple["dataclasses.Field[Any]", type[Any]]]:
    hints = typing.get_type_hints(config)
    return [(field, _kind(field.name, hints[field.name])) for field in dataclasses.fields(config)]


def _kind(name: str, hint: Any) -> type[Any]:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for kind in kinds:
        if kind in _NOUNS:
            return typing.cast(type[Any], kind)
    raise TypeError(f"no flag can be made from {name}: {hint}")


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _help(field: "dataclasses.Field[Any]") -> str:
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    words: dict[Any, str] = {True: "yes", False: "no", None: "none"}
    shown = words[default] if default is None or isinstance(default, bool) else default
    tail = "(required)" if _is_required(field) else f"(default: {shown})"
    # Empty text is no default that a reader would want to be told of.
    told = [field.metadata.get("help", ""), "" if default == "" else tail]
    # argparse reads a percent sign as the start of a placeholder.
    return " ".join(filter(None, told)).replace("%", "%%")


def _read_toml(file: Path, fields: list[tuple["dataclasses.Field[Any]", type[Any]]]) -> dict[str, Any]:
    try:
        given = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not valid TOML: {error}") from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    kinds = {field.name: kind for field, kind in fields}
    problems = [_problem(key, value, kinds) for key, value in given.items()]
    if found := [problem for problem in problems if problem]:
        raise UsageError(f"{file}: " + "; ".join(found))
    return {key: Path(value) if kinds[key] is Path else value for key, value in given.items()}


def _problem(key: str, value: Any, kinds: dict[str, type[Any]]) -> str:
    if key not in kinds:
        near = difflib.get_close_matches(key, kinds, n=1)
        return f"unknown key `{key}`" + (f" (did you mean `{near[0]}`?)" if near else "")
    kind = kinds[key]
    accepted = {float: (int, float), Path: (str,)}.get(kind, (kind,))
    # True is an int to Python, but not to a reader of the file.
    if isinstance(value, bool) is not (kind is bool) or not isinstance(value, accepted):
        return f"`{key}` must be {_NOUNS[kind]}, not {value!r}"
    return ""
