"""Whether training did anything: fingerprints of what is to learn, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from training.errors import Diverged

# Parts that start at zero, so that the rest means nothing until they have moved: weight decay moves that too.
_FIRST = ("lora_E", "vera_lambda_b", "lora_B")

Prints = Mapping[str, tuple[float, float]]


def trainables(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


@torch.no_grad()
def fingerprints(weights: Mapping[str, Tensor]) -> Prints:
    """Two sums for each weight: cheap to keep even for a whole model, and all but never equal by chance."""
    return {
        name: (float(weight.double().sum()), float(weight.double().square().sum()))
        for name, weight in weights.items()
    }


def check_moved(weights: Mapping[str, Tensor], before: Prints) -> None:
    """Raises `Diverged` when no weight has moved, or when one is no number any more."""
    after = fingerprints(weights)
    broken = [name for name, sums in after.items() if not all(map(_is_finite, sums))]
    if broken:
        raise Diverged(f"{broken[0]} holds NaN or infinity: lower optim.learning_rate")
    part = next((part for part in _FIRST if any(part in name for name in after)), "")
    if all(after[name] == before[name] for name in after if part in name):
        raise Diverged("no weight of the adapter moved: raise optim.learning_rate or train for more steps")


def check_optimized(optimizer: torch.optim.Optimizer, weights: Mapping[str, Any]) -> None:
    """The optimizer steps what was chosen to learn and nothing else, whatever `requires_grad` says by now."""
    stepped = {id(weight) for group in optimizer.param_groups for weight in group["params"]}
    assert stepped == {id(weight) for weight in weights.values()}, "the optimizer has other weights"


def _is_finite(value: float) -> bool:
    return value - value == 0
