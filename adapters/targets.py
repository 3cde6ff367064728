"""Which linears an adapter changes, at which rank and scale, by PEFT's own matching rules.

y = W x + scale * B (A x),   A: [rank, in],  B: [out, rank],  scale = alpha / rank, or alpha / sqrt(rank)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from adapters.patterns import (
    IndexFinder,
    Matcher,
    any_index_finder,
    full_matcher,
    index_finder,
    suffix_matcher,
)
from adapters.peft_config import LoraConfig

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Target:
    """One changed linear: the pair's rank, and the factor on B A."""

    rank: int
    scale: float


def find_targets(config: LoraConfig, linears: Iterable[str]) -> dict[str, Target]:
    """The linears that `config` targets, in the order given, each with its rank and scale."""
    targeted = _target_matcher(config)
    rank_of = _by_pattern(config.rank_pattern, config.rank)
    alpha_of = _by_pattern(config.alpha_pattern, config.alpha)
    return {
        name: Target(rank, _scale(alpha_of(name), rank, config.use_rslora))
        for name in linears
        if targeted(name)
        for rank in [rank_of(name)]
    }


def _scale(alpha: float, rank: int, use_rslora: bool) -> float:
    return alpha / (math.sqrt(rank) if use_rslora else rank)


def _target_matcher(config: LoraConfig) -> Matcher:
    excluded = _module_matcher(config.exclude_modules)
    if isinstance(config.target_modules, str):
        matches = _module_matcher(config.target_modules)
        return lambda name: not excluded(name) and matches(name)
    exact, by_ending = frozenset(config.target_modules), _ending_matcher(config.target_modules)
    in_layers = _layer_matcher(config)
    # A name given in full is targeted whatever layers_to_transform says; only endings are filtered.
    return lambda name: not excluded(name) and (name in exact or (by_ending(name) and in_layers(name)))


def _module_matcher(modules: str | tuple[str, ...]) -> Matcher:
    if isinstance(modules, str):
        # An empty exclude_modules excludes nothing; as a target it matches no name either way.
        return full_matcher(modules) if modules else lambda name: False
    exact, by_ending = frozenset(modules), _ending_matcher(modules)
    return lambda name: name in exact or by_ending(name)


def _ending_matcher(names: tuple[str, ...]) -> Matcher:
    endings = tuple(f".{name}" for name in names)
    return lambda name: name.endswith(endings)


def _layer_matcher(config: LoraConfig) -> Matcher:
    if not config.layers_to_transform:
        return lambda name: True
    wanted = frozenset(config.layers_to_transform)
    finders = [index_finder(pattern) for pattern in config.layers_pattern] or [any_index_finder()]
    return lambda name: _layer_index(finders, name) in wanted


def _layer_index(finders: list[IndexFinder], name: str) -> int | None:
    for find in finders:
        matched, index = find(name)
        if matched:
            return index
    return None


def _by_pattern(patterns: tuple[tuple[str, Number], ...], default: Number) -> Callable[[str], Number]:
    matchers = [(suffix_matcher(pattern), value) for pattern, value in patterns]

    def value_of(name: str) -> Number:
        return next((value for matches, value in matchers if matches(name)), default)

    return value_of
