"""What a kind of adapter is, as data: its keys, the places it may change, and the tensors it has at each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from adapters.config_keys import INIT, NOTES, Keys
from adapters.config_reader import Reader
from adapters.shapes import BaseShapes, Claim, Site, Target

Shape = tuple[int, ...]
Options = Mapping[str, Any]
Places = Literal["linears", "linears and tables", "tables", "norms", "none"]
# Of kinds that are converted, the rank in the configuration is not the rank that is served.
MAX_SOURCE_RANK = 8192

SELECTION = ("target_modules", "exclude_modules")
LAYERED = (*SELECTION, "layers_to_transform", "layers_pattern")
PATTERNS = ("rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class Option:
    """A key of one kind that decides what its tensors mean."""

    accepts: Callable[[Any], bool]
    default: Any
    remedy: str


def flag_option() -> Option:
    return Option(lambda value: isinstance(value, bool), False, "write true or false")


def count_option(default: int, lowest: int = 1, highest: int = MAX_SOURCE_RANK) -> Option:
    return Option(
        lambda value: type(value) is int and lowest <= value <= highest,
        default,
        f"write a whole number from {lowest} to {highest}",
    )


def no_parts(site: Site, options: Options) -> dict[str, Shape]:
    return {}


def no_claims(sites: Sequence[Site], options: Options, base: BaseShapes) -> dict[str, Claim]:
    return {}


def no_check(reader: Reader, options: Options) -> None:
    return None


def quotient(rank: int, alpha: float, options: Options) -> float:
    return alpha / rank


def unscaled(rank: int, alpha: float, options: Options) -> float:
    return 1.0


@dataclass(frozen=True)
class Kind:
    """One row of the table of kinds.

    `parts` are a targeted place's tensors, by their endings; `claims` are all others, by their full names.
    `divides` tells whether the blocks of which they are made fill the place. `scale` is the factor on a
    place's update. `served_rank`: the rank in the file is the rank that is served. `direct` kinds become
    their normal form without the base and without a conversion, so they need no preparation. `fills_cache`:
    what stands before the prompt are keys and values.
    """

    name: str
    used: tuple[str, ...] = SELECTION
    inert: Keys = field(default_factory=lambda: {**NOTES, **INIT})
    options: Mapping[str, Option] = field(default_factory=dict)
    places: Places = "linears"
    rank_key: str = ""
    alpha_key: str = ""
    parts: Callable[[Site, Options], dict[str, Shape]] = no_parts
    divides: Callable[[Site, Options], bool] = lambda site, options: True
    claims: Callable[[Sequence[Site], Options, BaseShapes], dict[str, Claim]] = no_claims
    scale: Callable[[int, float, Options], float] = unscaled
    target: Callable[[str, Target, Options], Target] = lambda name, target, options: target
    check: Callable[[Reader, Options], None] = no_check
    served_rank: bool = False
    direct: bool = False
    fills_cache: bool = False
    max_dims: int = 2
    may_be_empty: bool = False

    @property
    def keys(self) -> frozenset[str]:
        """The keys of adapter_config.json that the kind uses."""
        named = {self.rank_key, self.alpha_key} - {""}
        return frozenset({"peft_type", *self.used, *self.options, *named})
