"""adapter_config.json, read through a closed list of keys."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapters.config_keys import MERGE, check_inert_keys
from adapters.errors import InvalidAdapter
from adapters.files import CONFIG_NAME, MAX_CONFIG_BYTES, open_regular, read_at
from adapters.patterns import BadPattern, full_matcher, index_finder, suffix_matcher
from adapters.strict_json import parse_object, show

MAX_DEPTH = 6
MAX_NAMES = 4096
# Each pattern is tried on each linear, so this bounds quadratic work; EVA writes one per linear.
MAX_PATTERNS = 1024
MAX_LAYERS_PATTERNS = 64
MAX_BASE_NAME = 1024
_CONVERT = (
    "it was initialized from the base's weights, so its A and B fit only the rewritten base; save it with "
    f"PEFT's save_pretrained(..., path_initial_model_for_weight_conversion=...), or {MERGE}"
)
_USED = frozenset(
    [
        *("peft_type", "r", "lora_alpha", "use_rslora", "init_lora_weights", "rank_pattern", "alpha_pattern"),
        *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    ]
)


@dataclass(frozen=True)
class LoraConfig:
    """What of a LoRA's configuration decides the served function.

    `target_modules` and `exclude_modules` are a regular expression when a string, names or their endings when
    a tuple. Patterns keep the order of the file, because the first that matches wins.
    """

    rank: int
    alpha: float
    use_rslora: bool
    rank_pattern: tuple[tuple[str, int], ...]
    alpha_pattern: tuple[tuple[str, float], ...]
    target_modules: str | tuple[str, ...]
    exclude_modules: str | tuple[str, ...]
    layers_to_transform: tuple[int, ...]
    layers_pattern: tuple[str, ...]
    base_model_name: str


def read_config(path: Path, max_rank: int) -> LoraConfig:
    """Reads the file at `path`; raises InvalidAdapter with every problem."""
    with open_regular(path) as fd:
        return parse_config(read_at(fd, 0, MAX_CONFIG_BYTES + 1), max_rank)


def parse_config(raw: bytes, max_rank: int) -> LoraConfig:
    """Parses the bytes of adapter_config.json; raises InvalidAdapter with every problem."""
    if len(raw) > MAX_CONFIG_BYTES:
        raise InvalidAdapter([f"{CONFIG_NAME} is larger than {MAX_CONFIG_BYTES} bytes"])
    config = parse_object(raw, CONFIG_NAME, MAX_DEPTH)
    if config.get("peft_type") != "LORA":
        kind = show(config.get("peft_type"))
        raise InvalidAdapter(
            [f"peft_type is {kind}, only 'LORA' is served; {MERGE} if PEFT can merge this kind"]
        )
    reader = _Reader(config)
    check_inert_keys(config, _USED, reader.problems)
    parsed = _read(reader, max_rank)
    if reader.problems:
        raise InvalidAdapter(reader.problems)
    return parsed


def _read(reader: _Reader, max_rank: int) -> LoraConfig:
    reader.check_init()
    parsed = LoraConfig(
        rank=reader.rank(reader.config.get("r"), "r", max_rank),
        alpha=reader.alpha(reader.config.get("lora_alpha"), "lora_alpha"),
        use_rslora=reader.flag("use_rslora"),
        rank_pattern=reader.patterns("rank_pattern", lambda value, key: reader.rank(value, key, max_rank)),
        alpha_pattern=reader.patterns("alpha_pattern", reader.alpha),
        target_modules=reader.modules("target_modules"),
        exclude_modules=reader.modules("exclude_modules"),
        layers_to_transform=reader.layers(),
        layers_pattern=reader.layers_pattern(),
        base_model_name=reader.base_model_name(),
    )
    reader.check_combination()
    return parsed


class _Reader:
    """Reads one key at a time, gathers problems, and answers something harmless where a value is wrong."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.problems: list[str] = []

    def rank(self, value: Any, key: str, max_rank: int) -> int:
        if type(value) is int and 1 <= value <= max_rank:
            return value
        self.problems.append(
            f"{key} = {show(value)} must be a whole number from 1 to {max_rank}, this server's limit"
        )
        return 1

    def alpha(self, value: Any, key: str) -> float:
        # Checked before the conversion, which overflows for integers beyond a double's range.
        if type(value) in (int, float) and 0 < value < math.inf:
            return float(value)
        self.problems.append(f"{key} = {show(value)} must be a finite number above 0")
        return 1.0

    def flag(self, key: str) -> bool:
        value = self.config.get(key)
        if value is not None and not isinstance(value, bool):
            self.problems.append(f"{key} = {show(value)} must be true or false")
        return value is True

    def check_init(self) -> None:
        value = self.config.get("init_lora_weights", True)
        # Compared by identity: 1 == True, and PEFT writes neither 1 nor 0.
        if not any(value is flag for flag in (None, True, False)) and value not in (
            "gaussian",
            "orthogonal",
            "eva",
        ):
            self.problems.append(f"init_lora_weights = {show(value)} is not served: {_CONVERT}")

    def patterns(self, key: str, read: Callable[[Any, str], Any]) -> tuple[tuple[str, Any], ...]:
        value = self.config.get(key)
        if value is None:
            return ()
        if not isinstance(value, dict) or len(value) > MAX_PATTERNS:
            self.problems.append(f"{key} must map at most {MAX_PATTERNS} name patterns to numbers")
            return ()
        for pattern in value:
            self.check_pattern(pattern, suffix_matcher, key)
        return tuple((pattern, read(item, f"{key}[{show(pattern)}]")) for pattern, item in value.items())

    def modules(self, key: str) -> str | tuple[str, ...]:
        value = self.config.get(key)
        if isinstance(value, str):
            if value.lower() == "all-linear":
                self.problems.append(
                    f"{key} = 'all-linear' must be spelled out; PEFT does so when it saves an adapter"
                )
            else:
                self.check_pattern(value, full_matcher, key)
            return value
        return self.names(value, key)

    def names(self, value: Any, key: str) -> tuple[str, ...]:
        if value is None and key != "target_modules":
            return ()
        if (
            not isinstance(value, list)
            or len(value) > MAX_NAMES
            or not all(isinstance(item, str) for item in value)
        ):
            self.problems.append(f"{key} must be a regular expression or a list of at most {MAX_NAMES} names")
            return ()
        return tuple(value)

    def layers(self) -> tuple[int, ...]:
        value = self.config.get("layers_to_transform")
        layers = [] if value is None else value if isinstance(value, list) else [value]
        if not all(type(layer) is int and layer >= 0 for layer in layers):
            self.problems.append("layers_to_transform must be a layer number or a list of layer numbers")
            return ()
        return tuple(layers)

    def layers_pattern(self) -> tuple[str, ...]:
        value = self.config.get("layers_pattern")
        if value in (None, "", []):
            return ()
        patterns = self.names([value] if isinstance(value, str) else value, "layers_pattern")
        if len(patterns) > MAX_LAYERS_PATTERNS:
            self.problems.append(f"layers_pattern holds more than {MAX_LAYERS_PATTERNS} patterns")
            return ()
        for pattern in patterns:
            self.check_pattern(pattern, index_finder, "layers_pattern")
        return patterns

    def base_model_name(self) -> str:
        value = self.config.get("base_model_name_or_path")
        if isinstance(value, str) and (len(value) > MAX_BASE_NAME or not value.isprintable()):
            self.problems.append(
                f"base_model_name_or_path must be at most {MAX_BASE_NAME} printable characters"
            )
        return value if isinstance(value, str) else ""

    def check_pattern(self, pattern: str, compile_with: Callable[[str], object], key: str) -> None:
        try:
            compile_with(pattern)
        except BadPattern as error:
            self.problems.append(
                f"the pattern {show(pattern)} in {key} {error}; list the names of the linears instead"
            )

    def check_combination(self) -> None:
        # PEFT refuses to load these two, so no serving result could be called right.
        layers, pattern = self.config.get("layers_to_transform"), self.config.get("layers_pattern")
        if isinstance(self.config.get("target_modules"), str) and not (layers is None and pattern is None):
            self.problems.append(
                "layers_to_transform and layers_pattern need target_modules to be a list of names"
            )
        elif pattern and layers is None:
            self.problems.append("layers_pattern needs layers_to_transform")
