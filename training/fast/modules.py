"""PEFT's LoRA linears with a faster forward, for as long as nothing special is asked of them."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.bnb import Linear4bit
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from training.fast.linear import Dense, dense_of, lora_linear


class _Fast:
    """Takes the place of a PEFT linear's class; names, parameters and what is saved stay as they are."""

    dense: Dense

    def forward(self: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if args or kwargs or not self.is_plain():
            return super().forward(x, *args, **kwargs)  # type: ignore[misc, no-any-return]
        name, base = self.active_adapters[0], self.get_base_layer()
        pair = self.lora_A[name].weight, self.lora_B[name].weight
        return lora_linear(x, *pair, self.dense, base.bias, self.scaling[name])

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
            and not _is_repacked(self.get_base_layer())
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


def _fits(module: Any) -> bool:
    base = module.get_base_layer()
    state = getattr(base.weight, "quant_state", None)
    if getattr(module, "fan_in_fan_out", False) or not isinstance(base, nn.Linear):
        return False
    return state is None or (state.quant_type == "nf4" and state.blocksize == 64)


def _is_repacked(base: Any) -> bool:
    """Whether bitsandbytes has laid the codes out anew for a CPU, which it does without being asked."""
    state = getattr(base.weight, "quant_state", None)
    return bool(getattr(state, "packing_format_for_cpu", False)) and base.weight.dtype == torch.uint8
