"""Reads adapter_config.json key by key; what is wrong is a problem, and reads as something harmless."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from adapters.patterns import BadPattern, full_matcher, index_finder, suffix_matcher
from adapters.strict_json import show

MAX_NAMES = 4096
# Each pattern is tried on each linear, so this bounds quadratic work; EVA writes one per linear.
MAX_PATTERNS = 1024
MAX_LAYERS_PATTERNS = 64
MAX_BASE_NAME = 1024
MAX_TOKENS = 65536
MAX_SAVED = 64
_PLAIN_NAME = re.compile(r"[\w.]+\Z", re.ASCII)

Patterns = tuple[tuple[str, Any], ...]


class Reader:
    """One configuration being read; `problems` grows, nothing is raised."""

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

    def patterns(self, key: str, read: Callable[[Any, str], Any]) -> Patterns:
        value = self.config.get(key)
        if value is None:
            return ()
        if not isinstance(value, dict) or len(value) > MAX_PATTERNS:
            self.problems.append(f"{key} must map at most {MAX_PATTERNS} name patterns to numbers")
            return ()
        for pattern in value:
            self.check_pattern(pattern, suffix_matcher, key)
        return tuple((pattern, read(item, f"{key}[{show(pattern)}]")) for pattern, item in value.items())

    def modules(self, key: str, required: bool = False) -> str | tuple[str, ...]:
        value = self.config.get(key)
        if not isinstance(value, str):
            return self.names(value, key, required)
        if value.lower() == "all-linear":
            self.problems.append(
                f"{key} = 'all-linear' must be spelled out; PEFT does so when it saves an adapter"
            )
        else:
            self.check_pattern(value, full_matcher, key)
        return value

    def names(self, value: Any, key: str, required: bool = False) -> tuple[str, ...]:
        if value is None and not required:
            return ()
        if (
            not isinstance(value, list)
            or len(value) > MAX_NAMES
            or not all(isinstance(item, str) for item in value)
        ):
            self.problems.append(f"{key} must be a regular expression or a list of at most {MAX_NAMES} names")
            return ()
        return tuple(value)

    def plain_names(self, key: str) -> tuple[str, ...]:
        """A list of words without anything that a regular expression would read differently."""
        names = self.names(self.config.get(key), key)
        odd = [name for name in names if not _PLAIN_NAME.match(name)]
        self.problems.extend(f"{show(name)} in {key} is no plain module name" for name in odd)
        if len(names) > MAX_SAVED:
            self.problems.append(f"{key} holds more than {MAX_SAVED} names")
            return ()
        return tuple(name for name in names if name not in odd)

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

    def token_rows(self, value: Any, key: str) -> tuple[int, ...]:
        """Token ids, each once, in the order of the file, which is the order of the trained rows."""
        if (
            not isinstance(value, list)
            or not 0 < len(value) <= MAX_TOKENS
            or not all(type(token) is int and 0 <= token < 2**31 for token in value)
            or len(set(value)) != len(value)
        ):
            self.problems.append(f"{key} must list 1 to {MAX_TOKENS} token ids, each of them once")
            return ()
        return tuple(value)

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
