"""Kinds that train vectors: IA3's gains, LayerNorm tuning's norms, BEFT's biases."""

from __future__ import annotations

from typing import Any

from adapters.config_keys import FAN_IN, INIT, NOTES, is_flag
from adapters.config_reader import MAX_NAMES, Reader
from adapters.kinds.kind import SELECTION, Kind, Option, Options, Shape
from adapters.patterns import full_matcher
from adapters.shapes import Site


def is_feedforward(name: str, options: Options) -> bool:
    """Whether IA3 scales the input of this linear instead of its output, by endings of any kind."""
    modules = options["feedforward_modules"]
    if isinstance(modules, str):
        return full_matcher(modules)(name)
    return any(name.endswith(ending) for ending in modules)


def _ia3_parts(site: Site, options: Options) -> dict[str, Shape]:
    feedforward = is_feedforward(site.name, options)
    return {"ia3_l": (1, site.in_features) if feedforward else (site.out_features, 1)}


def _is_modules(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and len(value) <= MAX_NAMES and all(isinstance(item, str) for item in value)
    )


def _check_ia3(reader: Reader, options: Options) -> None:
    if isinstance(options["feedforward_modules"], str):
        reader.check_pattern(options["feedforward_modules"], full_matcher, "feedforward_modules")
    if reader.config.get("feedforward_modules") is None:
        reader.problems.append("feedforward_modules is missing; PEFT writes it when it saves an adapter")


IA3 = Kind(
    "ia3",
    used=(*SELECTION, "modules_to_save"),
    inert={**NOTES, **FAN_IN, "init_ia3_weights": (is_flag, "write true or false")},
    options={"feedforward_modules": Option(_is_modules, (), "write names or a regular expression")},
    parts=_ia3_parts,
    check=_check_ia3,
    direct=True,
)
LN_TUNING = Kind(
    "ln_tuning",
    used=(*SELECTION, "modules_to_save"),
    inert=NOTES,
    places="norms",
    parts=lambda site, options: {"ln_tuning_layers.weight": (site.out_features,)},
    direct=True,
)
BEFT = Kind(
    "beft",
    used=("target_modules", "modules_to_save"),
    inert={**NOTES, **INIT},
    parts=lambda site, options: {"beft_bias": (1, site.out_features)},
    direct=True,
)
