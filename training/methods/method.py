"""A method of training, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Family = Literal["lora", "adalora", "vera", "ia3", "prompt_tuning", "prefix_tuning", "p_tuning", "full"]
# Starts taken out of the base's weights, so that saving converts what was trained.
CONVERTED = ("pissa", "olora")
PROMPTS = ("prompt_tuning", "prefix_tuning", "p_tuning")


@dataclass(frozen=True)
class Method:
    """One row of the table of methods.

    `family` says what makes it. `fixed` are options that it stands for, by their dotted names: another value
    contradicts it. `suggested` are values that it gives to options which were left alone. `last_layers_only`:
    the layers before `last_layers` stay as they are. `served` is what a server does with the result.
    """

    summary: str
    family: Family
    served: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    suggested: Mapping[str, Any] = field(default_factory=dict)
    last_layers_only: bool = False

    @property
    def makes_model(self) -> bool:
        """Whether the result is a whole model instead of an adapter."""
        return self.family == "full"
