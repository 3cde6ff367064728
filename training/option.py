"""Fields of a run's settings that carry their own help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Any


def option(
    help_text: str,
    default: Any,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    refused: Mapping[str, str] | None = None,
) -> Any:
    """A field with its help text, its choices, why others are no choice, and the least value it may have."""
    metadata = {"help": help_text, "choices": choices, "least": least, "refused": refused or {}}
    return field(default=default, metadata=metadata)
