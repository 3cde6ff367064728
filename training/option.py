"""Fields of a run's settings that carry their own help, and settings by their dotted names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import field, fields, is_dataclass, replace
from typing import Any


def option(
    help_text: str,
    default: Any,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    most: float | None = None,
    refused: Mapping[str, str] | None = None,
) -> Any:
    """A field with its help text, its choices, why others are no choice, and between what a number lies."""
    metadata = {"help": help_text, "choices": choices, "refused": refused or {}, "least": least, "most": most}
    return field(default=default, metadata=metadata)


def sections(config: Any) -> Iterator[tuple[Any, str]]:
    """The settings outside of all sections and then each section, with what stands before its options."""
    yield config, ""
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            yield value, f"{item.name}."


def value_of(config: Any, name: str) -> Any:
    """The setting `name`, such as lora.rank."""
    section, _, key = name.rpartition(".")
    return getattr(getattr(config, section) if section else config, key)


def is_default(config: Any, name: str) -> bool:
    """Whether the setting `name` is what it is when left out."""
    section, _, key = name.rpartition(".")
    part = getattr(config, section) if section else config
    default = next(item.default for item in fields(part) if item.name == key)
    return bool(getattr(part, key) == default)


def with_value(config: Any, name: str, value: Any) -> Any:
    """`config` with another value of the setting `name`."""
    section, _, key = name.rpartition(".")
    changed = replace(getattr(config, section), **{key: value}) if section else value
    return replace(config, **{section or key: changed})
