"""Which linears and which layers of a base a method reaches."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from peft.utils.other import get_pattern_key
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
    names = list(_adapted(model, lora))
    problems = [
        f"lora.{option}: {problem}"
        for option, patterns in (("rank_pattern", lora.rank_pattern), ("alpha_pattern", lora.alpha_pattern))
        for pattern in patterns or {}
        if (problem := _pattern_problem(pattern, names))
    ]
    if problems:
        raise InvalidConfig(problems)


def check_directions(model: Any, lora: LoraSection) -> None:
    """Raises `InvalidConfig` for more rank than a linear has directions to start from."""
    ranks = lora.rank_pattern or {}
    for name, linear in _adapted(model, lora).items():
        most = min(linear.in_features, linear.out_features)
        # PEFT's own choice among patterns.
        if ranks.get(get_pattern_key(ranks.keys(), name), lora.rank) > most:
            what = f"lora.init = {lora.init} starts from directions, of which {name} has {most}"
            raise InvalidConfig([f"{what}: lower lora.rank"])


def _adapted(model: Any, lora: LoraSection) -> dict[str, nn.Linear]:
    targets = resolve_targets(model, lora.targets)
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in targets
    }


def _pattern_problem(pattern: str, names: Iterable[str]) -> str | None:
    try:
        # As PEFT reads it.
        found = re.compile(rf"(.*\.)?({pattern})$")
    except re.error as error:
        return f"{pattern!r} is no regular expression: {error}"
    matches = any(map(found.match, names))
    return None if matches else f"no adapted linear has a name that ends in {pattern!r}"


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
