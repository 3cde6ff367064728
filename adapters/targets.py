"""Which places an adapter changes, at which rank and scale, by PEFT's own matching rules."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from adapters.patterns import (
    IndexFinder,
    Matcher,
    any_index_finder,
    full_matcher,
    index_finder,
    suffix_matcher,
)
from adapters.peft_config import AdapterConfig
from adapters.shapes import EMBEDDING, HEAD, BaseShapes
from adapters.shapes import Target as Target

Number = TypeVar("Number", int, float)


def find_targets(config: AdapterConfig, names: Iterable[str]) -> dict[str, Target]:
    """Those of the modules that `config` targets, in the order given, each with its rank and scale."""
    kind, targeted = config.kind, _target_matcher(config)
    rank_of = _by_pattern(config.rank_pattern, config.rank)
    alpha_of = _by_pattern(config.alpha_pattern, config.alpha)
    targets = {}
    for name in names:
        if targeted(name):
            rank = rank_of(name)
            target = Target(rank, kind.scale(rank, alpha_of(name), config.options))
            targets[name] = kind.target(name, target, config.options)
    return targets


def find_all(config: AdapterConfig, base: BaseShapes) -> dict[str, Target]:
    """All that an adapter of this kind targets in this base."""
    candidates = {
        "linears": (*base.linears,),
        "linears and tables": (*base.linears, *base.tables),
        "tables": base.tables,
        "norms": (*base.norms,),
        "none": (),
    }[config.kind.places]
    targets = find_targets(config, candidates)
    if config.ensure_tying and base.tied and {EMBEDDING, HEAD} & set(targets):
        # PEFT then trains one pair and uses it in both.
        both = targets.get(EMBEDDING) or targets[HEAD]
        targets |= {EMBEDDING: both, HEAD: both}
    return targets


def saves(config: AdapterConfig, name: str) -> bool:
    """PEFT's rule for modules_to_save: endings, wherever they begin."""
    return name.endswith(config.saved_modules) if config.saved_modules else False


def _target_matcher(config: AdapterConfig) -> Matcher:
    matches, saved = _selection_matcher(config), _saved_matcher(config.saved_modules)
    return lambda name: not saved(name) and matches(name)


def _saved_matcher(names: tuple[str, ...]) -> Matcher:
    """What lies in a saved module is never targeted as well."""
    if not names:
        return lambda name: False
    compiled = re.compile(rf"(?:^|.*\.)(?:{'|'.join(re.escape(name) for name in names)})(?:$|\..*)")
    return lambda name: compiled.match(name) is not None


def _selection_matcher(config: AdapterConfig) -> Matcher:
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


def _layer_matcher(config: AdapterConfig) -> Matcher:
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
