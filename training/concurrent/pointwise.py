"""Norms and activations of a base that several jobs share."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.concurrent.linear import Seats, SharedLinear


class ByJob(nn.Module):
    """A module that sees one job's tokens at a time, where they must not share a call."""

    def __init__(self, inner: nn.Module, seats: Seats) -> None:
        super().__init__()
        self._inner = inner
        self._seats = seats

    def forward(self, x: Tensor) -> Tensor:
        """x [1, tokens, ...]."""
        if self._seats.together:
            return self._inner(x)  # type: ignore[no-any-return]
        # Split for one job too: gradients of x are then summed in one order, however many there are.
        return torch.cat([self._inner(part) for part in x.split(self._seats.sizes, 1)], 1)


class FusedNorm(nn.Module):
    """RMS norm in one call instead of six."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        super().__init__()
        self.weight, self._eps = weight, eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self._eps)


def is_pointwise(module: nn.Module) -> bool:
    """Norms and activations."""
    others = (SharedLinear, nn.Embedding)
    return not any(True for _ in module.children()) and not isinstance(module, others)


def fused(module: Any) -> nn.Module:
    """`module`, or what computes the same faster."""
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return FusedNorm(module.weight, module.variance_epsilon)
    return module  # type: ignore[no-any-return]
