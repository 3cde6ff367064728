"""Which linears and which layers of a base a method reaches."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from training.config import ALL_LINEAR, LoraSection, TrainConfig
from training.errors import InvalidConfig
from training.methods.table import METHODS

_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def resolve_targets(model: Any, targets: tuple[str, ...]) -> tuple[str, ...]:
    """The linears' own names, sorted. Raises `InvalidConfig` for a name that no linear has."""
    linears = _linear_names(model)
    if targets == (ALL_LINEAR,):
        return tuple(sorted(linears))
    unknown = [name for name in targets if name not in linears]
    if unknown:
        raise InvalidConfig(
            [
                f"lora.targets: the base has no linear {name}; it has {', '.join(sorted(linears))}"
                for name in unknown
            ]
        )
    return tuple(sorted(targets))


def check_patterns(model: Any, lora: LoraSection) -> None:
    """Raises `InvalidConfig` for a pattern that is none or that no adapted linear's name ends in."""
    targets = resolve_targets(model, lora.targets)
    names = [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in targets]
    problems = []
    for option in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(lora, option) or {}:
            try:
                # As PEFT reads it.
                found = re.compile(rf"(.*\.)?({pattern})$")
            except re.error as error:
                problems.append(f"lora.{option}: {pattern!r} is no regular expression: {error}")
                continue
            if not any(map(found.match, names)):
                problems.append(f"lora.{option}: no adapted linear has a name that ends in {pattern!r}")
    if problems:
        raise InvalidConfig(problems)


def check_directions(model: Any, lora: LoraSection) -> None:
    """Raises `InvalidConfig` for more rank than a linear has directions to start from."""
    targets = resolve_targets(model, lora.targets)
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)[-1]
        if last in targets and isinstance(module, nn.Linear):
            most = min(module.in_features, module.out_features)
            if lora.rank > most:
                what = f"lora.init = {lora.init} starts from directions, of which {last} has {most}"
                raise InvalidConfig([f"{what}: lower lora.rank"])


def chosen_layers(model: Any, config: TrainConfig) -> tuple[int, ...] | None:
    """Indices of the layers to train, None for all. Raises `InvalidConfig` for layers the base lacks."""
    count = num_layers(model)
    if METHODS[config.method].last_layers_only:
        if config.last_layers > count:
            raise InvalidConfig([f"last_layers: the base has {count} layers, not {config.last_layers}"])
        return tuple(range(count - config.last_layers, count))
    wrong = [index for index in config.lora.layers_to_transform or () if not 0 <= index < count]
    if wrong:
        raise InvalidConfig([f"lora.layers_to_transform: the base has layers 0 to {count - 1}, not {wrong}"])
    return config.lora.layers_to_transform


def num_layers(model: Any) -> int:
    return int(model.config.get_text_config().num_hidden_layers)


def layer_of(name: str) -> int | None:
    """The index of the layer that a parameter belongs to; None outside of all layers."""
    found = _LAYER.search(name)
    return int(found[1]) if found else None


def _linear_names(model: Any) -> set[str]:
    """Last names of every linear but the output head, quantized ones included."""
    head = model.get_output_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
