"""What is known of a base before its weights are."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from training.errors import InvalidBase


def read_base(base: str) -> Any:
    """The base's own configuration. Raises `InvalidBase`."""
    try:
        return AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise InvalidBase(f"{base} has no configuration that can be read: {error}") from error
