"""Progressive unfreezing: layers begin to learn group by group, the last ones first."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.errors import InvalidConfig
from training.methods.targets import layer_of


class Unfreezing(TrainerCallback):  # type: ignore[misc]
    """Lets group after group require gradients; which ones do is a function of the step alone."""

    def __init__(self, weights: Mapping[str, nn.Parameter], num_groups: int, every: int) -> None:
        """Raises `InvalidConfig` for more groups than layers, and among several processes."""
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # Processes agree once on the gradients that they exchange, and would miss those that begin later.
            raise InvalidConfig(["optim.unfreeze_groups works in one process: train without it on several"])
        self._weights = weights
        self._groups = groups_of(weights, num_groups)
        self._every = every

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        awake = state.global_step // self._every
        for name, weight in self._weights.items():
            weight.requires_grad_(self._groups[name] <= awake)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        for weight in self._weights.values():
            weight.requires_grad_(True)


def groups_of(names: Mapping[str, Any], num_groups: int) -> dict[str, int]:
    """The group of each weight, 0 for the first to learn.

    The layers that learn are cut into groups of like size. What stands before them, as the embedding does,
    wakes with the last group, and what stands behind them with the first.
    """
    layers = sorted({layer for name in names if (layer := layer_of(name)) is not None})
    if num_groups > len(layers):
        raise InvalidConfig(
            [f"optim.unfreeze_groups: {len(layers)} layers cannot be cut into {num_groups} groups"]
        )
    place = {layer: index * num_groups // len(layers) for index, layer in enumerate(reversed(layers))}
    return {name: _group(name, place, num_groups) for name in names}


def _group(name: str, place: Mapping[int, int], num_groups: int) -> int:
    layer = layer_of(name)
    if layer is not None:
        return place[layer]
    return num_groups - 1 if "embed" in name else 0
