"""The check of an adapter's tensors against what its configuration calls for.

names    every tensor is called for by exactly one place, and everything that is called for is there
shapes   those of this base
numbers  all finite, and small enough for a trained update
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from adapters.files import CONFIG_NAME
from adapters.header import TensorInfo
from adapters.numeric import max_magnitude
from adapters.plan import Plan
from adapters.shapes import Claim
from adapters.strict_json import show

# Trained updates stay below 1 per entry; a million is far beyond use and far from overflowing bfloat16.
MAX_DELTA = 1e6
# The parts whose product is the update, and those that the scale is multiplied into.
_LEFT = ("lora_B.weight", "lora_B", "lora_embedding_B")
_FACTORS = (*_LEFT, "lora_A.weight", "lora_A", "lora_E", "lora_embedding_A")
_SCALED = (*_LEFT, "lora_B.bias")

Tensors = Mapping[str, TensorInfo]
# Part of a place -> the largest magnitude in it.
Magnitudes = dict[str, float]


def check_shapes(tensors: Tensors, plan: Plan, problems: list[str]) -> None:
    """Each tensor has its place and its shape, and none is missing."""
    if not plan.claims:
        problems.append(
            "target_modules matches no linear of this base; was the adapter trained on another base?"
        )
    known = {**plan.optional, **plan.claims}
    for name, claim in known.items():
        if name in tensors:
            _check_shape(name, tensors[name], claim, problems)
        elif name in plan.claims:
            place = claim.place or "it"
            problems.append(f"tensor {show(name)} is missing although {CONFIG_NAME} targets {place}")
    problems.extend(
        f"tensor {show(name)} belongs to no targeted linear of this base"
        for name in sorted(set(tensors) - set(known))
    )


def check_numbers(fd: int, tensors: Tensors, plan: Plan, problems: list[str]) -> None:
    """Reads every number of the open file."""
    for place, parts in _magnitudes(fd, tensors, plan).items():
        what = place or "the shared parts"
        if any(math.isnan(value) for value in parts.values()):
            problems.append(f"the weights of {what} hold NaN or infinity; was the training run diverging?")
        elif not _bound(place, parts, plan) <= MAX_DELTA:
            problems.append(
                f"the weights of {what} are too large to be a trained update (bound {MAX_DELTA:g})"
            )


def _check_shape(name: str, info: TensorInfo, claim: Claim, problems: list[str]) -> None:
    if not claim.fits(info.shape):
        problems.append(f"tensor {show(name)} has shape {info.shape}, this base needs {claim.shape}")


def _magnitudes(fd: int, tensors: Tensors, plan: Plan) -> dict[str, Magnitudes]:
    found: dict[str, Magnitudes] = defaultdict(dict)
    for name, claim in {**plan.optional, **plan.claims}.items():
        if name in tensors:
            found[claim.place][claim.part] = max_magnitude(fd, tensors[name])
    return found


def _bound(place: str, parts: Magnitudes, plan: Plan) -> float:
    """The largest entry of scale * B A, of what is made on the way to it, and of all else that is there."""
    target = plan.targets.get(place)
    factors = [value for part, value in parts.items() if part in _FACTORS]
    if target is None or not factors:
        return max(parts.values())
    others = [value for part, value in parts.items() if part not in _FACTORS]
    scaled = [value * target.scale for part, value in parts.items() if part in _SCALED]
    # The scale alone: zeros times infinity are no numbers.
    return max(target.scale, math.prod(factors) * target.scale * target.rank, *scaled, *others)
