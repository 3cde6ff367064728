"""Linears of a layer that multiply the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from training.fast.linear import Pairs, Projection, lora_linears
from training.fast.modules import as_projection, is_fast, is_repacked


class Group:
    """Made of modules that `fits` has found fit; their weights are asked for anew in every pass."""

    def __init__(self, *modules: Any) -> None:
        self._pairs = [module for module in modules if is_fast(module)]
        self._bare = {module: as_projection(module) for module in modules if not is_fast(module)}
        self._modules = modules

    @staticmethod
    def fits(*modules: Any) -> bool:
        """Whether each is a LoRA linear that was made fast, or a linear without an adapter."""
        return all(is_fast(module) or as_projection(module) is not None for module in modules)

    def is_plain(self) -> bool:
        """Whether a pair each is all there is to add now."""
        is_plain = all(module.is_plain() for module in self._pairs)
        return is_plain and not any(is_repacked(module) for module in self._bare)

    def weights(self) -> list[nn.Parameter]:
        """A and B of every linear that has a pair."""
        return [weight for module in self._pairs for weight in module.pair()]

    def projections(self) -> tuple[Projection, ...]:
        return tuple(self._bare.get(module) or module.projection() for module in self._modules)

    def __call__(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """x [..., in] -> [..., sum of widths]."""
        return lora_linears(x, self.projections(), weights)

    def backward(self, grad: Tensor, x: Tensor, weights: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Gradients of x [..., in] and of the weights; of the forward pass only what is low is done again."""
        rows, grad = x.flatten(0, -2), grad.reshape(-1, grad.shape[-1])
        pairs = Pairs.of(self.projections(), weights, x.dtype)
        grad_x, grad_weights = pairs.backward(grad, rows, pairs.low(rows), True)
        assert grad_x is not None
        return grad_x.view(x.shape), grad_weights
