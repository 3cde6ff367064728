"""A frozen linear with the adapters of whoever is in the pass: y = W x + b + their updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from training.concurrent.batch import Batch
from training.concurrent.frozen import Frozen
from training.concurrent.updates import Updates


@dataclass(slots=True)
class Seats:
    """Who is in the pass that runs now; every wrapped module of one base looks here.

    together: the base's products run over all tokens at once, else over one job's at a time.
    """

    together: bool
    batch: Batch | None = None
    updates: Mapping[str, Updates] = field(default_factory=dict)
    # Asks for a gradient where the pairs, which are no part of autograd, want one, and nowhere below.
    asks: Tensor = field(default_factory=lambda: torch.zeros((), requires_grad=True))

    @contextmanager
    def taken(self, batch: Batch, updates: Mapping[str, Updates]) -> Iterator[None]:
        """Who is in the pass, until it is over, backward included: a checkpointed layer runs again there."""
        self.batch, self.updates = batch, updates
        try:
            yield
        finally:
            self.batch, self.updates = None, {}

    @property
    def sizes(self) -> list[int]:
        """Tokens that may share one call."""
        assert self.batch is not None, "no pass is running"
        sizes = self.batch.sizes
        return [sum(sizes)] if self.together else sizes


class SharedLinear(nn.Module):
    """Stands where one of the base's linears stood."""

    def __init__(self, name: str, weight: Frozen, bias: Tensor | None, seats: Seats) -> None:
        super().__init__()
        self.name = name
        self.weight = weight
        self.bias = bias
        self.out_features, self.in_features = weight.shape
        self._seats = seats

    def forward(self, x: Tensor) -> Tensor:
        """x [..., tokens, in] -> [..., tokens, out]."""
        seats = self._seats
        updates = seats.updates.get(self.name)
        y: Tensor = _Product.apply(  # type: ignore[no-untyped-call]
            x.reshape(-1, self.in_features), updates and seats.asks, self, seats.sizes, updates
        )
        return y.view(*x.shape[:-1], self.out_features)


class _Product(torch.autograd.Function):
    """The base's weight gets no gradient; the pairs' gradients are gathered where the jobs keep them."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        asks: Tensor | None,
        linear: SharedLinear,
        sizes: list[int],
        updates: Updates | None,
    ) -> Tensor:
        weight = linear.weight.dequantize(x.dtype)
        y = x.new_empty(x.shape[0], linear.out_features)
        for part, out in zip(x.split(sizes), y.split(sizes), strict=True):
            torch.mm(part, weight.T, out=out)
        if linear.bias is not None:
            y += linear.bias
        ctx.linear, ctx.sizes, ctx.updates = linear, sizes, updates
        if updates is not None:
            ctx.save_for_backward(x, *updates.add(y, x))
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        grad_y = grads[0].contiguous()
        grad_x = _passed_on(grad_y, ctx.linear, ctx.sizes) if ctx.needs_input_grad[0] else None
        if ctx.updates is not None:
            ctx.updates.gather(grad_y, grad_x, *ctx.saved_tensors)
        return grad_x, None, None, None, None


def _passed_on(grad_y: Tensor, linear: SharedLinear, sizes: list[int]) -> Tensor:
    """grad_y [tokens, out] -> [tokens, in], through the base's weight."""
    weight = linear.weight.dequantize(grad_y.dtype)
    grad_x = grad_y.new_empty(grad_y.shape[0], linear.in_features)
    for part, out in zip(grad_y.split(sizes), grad_x.split(sizes), strict=True):
        torch.mm(part, weight, out=out)
    return grad_x
