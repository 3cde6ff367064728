"""TOML to `TrainConfig` and back, driven by the dataclass fields alone."""

from __future__ import annotations

import json
import logging
import tomllib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from training.config import TrainConfig
from training.errors import InvalidConfig
from training.idle import idle_options
from training.methods.settle import settled
from training.option import is_default, sections
from training.problems import config_problems

_log = logging.getLogger(__name__)


def read_config(path: Path) -> TrainConfig:
    """The run described in `path`. Raises `InvalidConfig` with every mistake in it at once."""
    try:
        # Some editors put a mark before the first letter.
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InvalidConfig([f"{path} cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig([f"{path} is not TOML: {error}"]) from error
    return parse_config(table, path.parent)


def parse_config(table: Mapping[str, Any], folder: Path = Path()) -> TrainConfig:
    """The run in `table`; relative paths start at `folder`. Raises `InvalidConfig`."""
    problems: list[str] = []
    config: TrainConfig = _section(TrainConfig, table, folder, "", problems)
    if problems:
        raise InvalidConfig(problems)
    beside = folder / Path(config.base).expanduser()
    # No base at all would be the folder itself.
    if config.base and beside.is_dir():
        config = replace(config, base=str(beside))
    config = settled(config)
    check_config(config)
    _warn_of_idle(config, table)
    return config


def check_config(config: TrainConfig) -> None:
    """Raises `InvalidConfig` for required fields left out, values out of range, fields that disagree."""
    if problems := list(config_problems(config)):
        raise InvalidConfig(problems)


def dump_config(config: TrainConfig) -> str:
    """TOML that `read_config` turns into `config` again, without what the run would not read."""
    idle = {name for name in idle_options(config) if is_default(config, name)}
    lines: list[str] = []
    for section, prefix in sections(config):
        written = [
            f"{item.name} = {_toml(value)}"
            for item in fields(section)
            if (value := getattr(section, item.name)) is not None
            and not is_dataclass(value)
            and prefix + item.name not in idle
        ]
        lines += [f"\n[{prefix.rstrip('.')}]"] if prefix and written else []
        lines += written
    return "\n".join(lines) + "\n"


def option_help() -> dict[str, str]:
    """Every option by its dotted name, with its help text: what flags and documentation are made from."""
    return {
        f"{name}{item.name}": item.metadata["help"]
        for section, name in sections(TrainConfig())
        for item in fields(section)
        if not is_dataclass(getattr(section, item.name))
    }


def _warn_of_idle(config: TrainConfig, table: Mapping[str, Any]) -> None:
    """Says which options stand in `table` to no effect, though with the value that they have anyway."""
    for name, why in idle_options(config).items():
        section, _, key = name.rpartition(".")
        if key in (table.get(section, {}) if section else table):
            _log.warning("%s", why)


def _section(kind: Any, table: Mapping[str, Any], folder: Path, prefix: str, problems: list[str]) -> Any:
    known, hints = {item.name for item in fields(kind)}, get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, raw in table.items():
        if key not in known:
            problems.append(_unknown(prefix + key, [prefix + name for name in sorted(known)]))
        elif is_dataclass(hints[key]):
            if isinstance(raw, Mapping):
                values[key] = _section(hints[key], raw, folder, f"{prefix}{key}.", problems)
            else:
                problems.append(f"{prefix}{key} is a section: write [{key}] above its keys")
        else:
            try:
                values[key] = _converted(raw, hints[key], folder)
            except TypeError:
                problems.append(f"{prefix}{key} must be {_spoken(hints[key])}, not {raw!r}")
    return kind(**values)


def _unknown(key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, n=3) or get_close_matches(key, option_help(), n=3)
    return f"{key} is not an option" + (f": did you mean {' or '.join(close)}?" if close else "")


def _converted(raw: Any, hint: Any, folder: Path) -> Any:
    """`raw` as `hint`, or TypeError; a bool is no number and a number is no string."""
    if isinstance(hint, UnionType):
        return _converted(raw, next(kind for kind in get_args(hint) if kind is not NoneType), folder)
    origin = get_origin(hint)
    if origin is tuple:
        items = [raw] if isinstance(raw, str) else raw
        if not isinstance(items, list | tuple) or not items:
            raise TypeError
        return tuple(_converted(item, get_args(hint)[0], folder) for item in items)
    if origin is dict:
        if not isinstance(raw, Mapping):
            raise TypeError
        return {str(key): _converted(value, get_args(hint)[1], folder) for key, value in raw.items()}
    if hint is Path and isinstance(raw, str | Path) and "\0" not in str(raw):
        return folder / Path(raw).expanduser()
    if hint is float and type(raw) is int:
        return float(raw)
    if type(raw) is not hint:
        raise TypeError
    return raw


def _spoken(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return _spoken(next(kind for kind in get_args(hint) if kind is not NoneType))
    names: dict[Any, str] = {
        str: "a string", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"
    }  # fmt: skip
    return names.get(hint, "a list" if get_origin(hint) is tuple else "a table of numbers")


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(str(value) if isinstance(value, Path) else value)
