"""TOML to `TrainConfig` and back, driven by the dataclass fields alone."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from training.config import TrainConfig
from training.errors import InvalidConfig
from training.evaluation.config import evaluation_problems
from training.methods.settle import method_problems, settled
from training.preference.rules import task_problems


def read_config(path: Path) -> TrainConfig:
    """The run described in `path`. Raises `InvalidConfig` with every mistake in it at once."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidConfig([f"{path} cannot be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidConfig([f"{path} is not TOML: {error}"]) from error
    return parse_config(table, path.parent)


def parse_config(table: Mapping[str, Any], folder: Path = Path()) -> TrainConfig:
    """The run in `table`; relative paths start at `folder`. Raises `InvalidConfig`."""
    problems: list[str] = []
    values = _section(TrainConfig, table, folder, "", problems)
    if problems:
        raise InvalidConfig(problems)
    config: TrainConfig = values
    if (folder / config.base).is_dir():
        values = {item.name: getattr(config, item.name) for item in fields(config)}
        config = TrainConfig(**(values | {"base": str(folder / config.base)}))
    config = settled(config)
    check_config(config)
    return config


def check_config(config: TrainConfig) -> None:
    """Raises `InvalidConfig` for required fields left out, values out of range, fields that disagree."""
    problems = [problem for section, name in _sections(config) for problem in _range_problems(section, name)]
    if not config.base:
        problems.append("base is missing: name the folder or hub id of the base model")
    if config.output == Path():
        problems.append("output is missing: name the folder that becomes the adapter")
    if config.data.train == Path():
        problems.append("data.train is missing: name the JSONL file to train on")
    if config.data.eval and config.data.eval_fraction:
        problems.append("data.eval and data.eval_fraction exclude each other: keep one")
    if config.data.eval_fraction >= 1 or config.lora.dropout >= 1:
        problems.append("data.eval_fraction and lora.dropout are shares below 1")
    has_held_out = bool(config.data.eval or config.data.eval_fraction)
    problems += evaluation_problems(config.evaluation, has_held_out)
    if config.optim.patience and not has_held_out:
        problems.append("optim.patience needs held-out rows: give data.eval or data.eval_fraction")
    if config.optim.max_steps is None and config.optim.epochs <= 0:
        problems.append("optim.epochs must be more than 0 when optim.max_steps is left out")
    problems += method_problems(config)
    problems += task_problems(config)
    if problems:
        raise InvalidConfig(problems)


def dump_config(config: TrainConfig) -> str:
    """TOML that `read_config` turns into `config` again."""
    lines: list[str] = []
    for section, name in _sections(config):
        lines += [f"\n[{name.rstrip('.')}]"] if name else []
        for item in fields(section):
            value = getattr(section, item.name)
            if value is not None and not is_dataclass(value):
                lines.append(f"{item.name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def option_help() -> dict[str, str]:
    """Every option by its dotted name, with its help text: what flags and documentation are made from."""
    return {
        f"{name}{item.name}": item.metadata["help"]
        for section, name in _sections(TrainConfig())
        for item in fields(section)
        if not is_dataclass(getattr(section, item.name))
    }


def _sections(config: TrainConfig) -> Iterator[tuple[Any, str]]:
    yield config, ""
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield value, f"{item.name}."


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
    if hint is Path and isinstance(raw, str | Path):
        return folder / Path(raw).expanduser()
    if hint is float and type(raw) is int:
        return float(raw)
    if type(raw) is not hint:
        raise TypeError
    return raw


def _range_problems(section: Any, prefix: str) -> Iterator[str]:
    for item in fields(section):
        value, name = getattr(section, item.name), f"{prefix}{item.name}"
        choices, least = item.metadata.get("choices"), item.metadata.get("least")
        refused = item.metadata.get("refused") or {}
        if refused and value in refused:
            yield f"{name} {value!r} is not offered: {refused[value]}"
        elif choices and value not in choices:
            yield f"{name} must be {' or '.join(choices)}, not {value!r}"
        if least is not None and value is not None and not value >= least:
            yield f"{name} must be at least {least}, not {value}"


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
