"""PEFT's LoRA linears with a faster forward, for as long as nothing special is asked of them."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.bnb import Linear4bit
from peft.tuners.lora.layer import Linear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from training.fast.linear import Dense, Projection, dense_of, lora_linears


class _Fast:
    """Takes the place of a PEFT linear's class; names, parameters and what is saved stay as they are."""

    dense: Dense

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self.is_plain():
            return super().forward(x, *args, **kwargs)  # type: ignore[misc, no-any-return]
        return lora_linears(x, (self.projection(),), self.pair())

    def projection(self: Any) -> Projection:
        base, scale = self.get_base_layer(), self.scaling[self.active_adapters[0]]
        return Projection(self.dense, base.bias, base.out_features, True, scale)

    def pair(self: Any) -> tuple[Tensor, Tensor]:
        """A [rank, in] and B [out, rank]."""
        name = self.active_adapters[0]
        return self.lora_A[name].weight, self.lora_B[name].weight

    def is_plain(self: Any) -> bool:
        """Whether one plain low-rank pair, unmerged and without dropout, is all there is to add."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        name = self.active_adapters[0]
        return (
            name in self.lora_A
            and name not in self.lora_variant
            and isinstance(self.lora_dropout[name], nn.Identity)
            and self.lora_B[name].bias is None
            and not is_repacked(self.get_base_layer())
        )


class FastLinear(_Fast, Linear):  # type: ignore[misc]
    """Over a weight of floats."""


class FastLinear4bit(_Fast, Linear4bit):  # type: ignore[misc]
    """Over 4-bit codes."""


FAST: dict[type, type] = {Linear: FastLinear, Linear4bit: FastLinear4bit}


def make_linears_fast(model: nn.Module) -> int:
    """Gives every LoRA linear of a type that has one its fast forward; returns how many got it."""
    found: list[Any] = [module for module in model.modules() if type(module) in FAST and _fits(module)]
    for module in found:
        module.dense = dense_of(module.get_base_layer())
        module.__class__ = FAST[type(module)]
    return len(found)


def is_fast(module: nn.Module) -> bool:
    return isinstance(module, _Fast)


def as_projection(module: Any) -> Projection | None:
    """A linear without an adapter; None for whatever else."""
    if isinstance(module, BaseTunerLayer) or not _is_base(module):
        return None
    return Projection(dense_of(module), module.bias, module.out_features)


def _fits(module: Any) -> bool:
    return not getattr(module, "fan_in_fan_out", False) and _is_base(module.get_base_layer())


def _is_base(module: Any) -> bool:
    """Whether it is a linear whose weight can be asked for."""
    if not isinstance(module, nn.Linear):
        return False
    state = getattr(module.weight, "quant_state", None)
    if state is None:
        return module.weight.is_floating_point()
    return bool(state.quant_type == "nf4" and state.blocksize == 64)


def is_repacked(base: Any) -> bool:
    """Whether bitsandbytes has laid the codes out anew for a CPU, which it does without being asked."""
    state = getattr(base.weight, "quant_state", None)
    return bool(getattr(state, "packing_format_for_cpu", False)) and base.weight.dtype == torch.uint8
