"""Frozen linears that meet the same rows, and their low-rank pairs, as one node of the graph.

    y_i = x W_i' + b_i + s_i (x A_i') B_i'

A W is made from its codes where it is needed, and never kept; only what is as narrow as a rank is kept
beside x. PEFT's own forward is the slow twin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from server.kernels.nf4 import Nf4Weight, from_state

# A weight [out, in] in the number format that is asked for.
Dense = Callable[[torch.dtype], Tensor]


@dataclass(frozen=True, slots=True)
class Projection:
    """A frozen linear with `width` outputs; `scale` is that of its pair, if it `has_pair`."""

    weight: Dense
    bias: Tensor | None
    width: int
    has_pair: bool = False
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Pairs:
    """The pairs of some projections, in the rows' format: a [sum of ranks, in], each of bs [width, rank]."""

    projections: Sequence[Projection]
    a: Tensor | None
    bs: Sequence[Tensor]

    @classmethod
    def of(cls, projections: Sequence[Projection], weights: Sequence[Tensor], dtype: torch.dtype) -> Pairs:
        """weights: A and B of every projection that has a pair, in order; they may have another format."""
        stacked = weights[0] if len(weights) == 2 else torch.cat([*weights[::2]]) if weights else None
        a = None if stacked is None else stacked.to(dtype)
        return cls(projections, a, [weight.to(dtype) for weight in weights[1::2]])

    def low(self, x: Tensor) -> Tensor | None:
        """x [rows, in] -> [rows, ranks]."""
        return None if self.a is None else x @ self.a.T

    def forward(self, x: Tensor, low: Tensor | None) -> Tensor:
        """x [rows, in] -> [rows, sum of widths]."""
        y = x.new_empty(len(x), sum(each.width for each in self.projections))
        for part, each, b, at in self._places(y):
            torch.mm(x, each.weight(x.dtype).T, out=part)
            if each.bias is not None:
                part += each.bias
            if b is not None and low is not None:
                part.addmm_(low[:, at], b.T, alpha=each.scale)
        return y

    def backward(
        self, grad: Tensor, x: Tensor, low: Tensor | None, wants_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of x and of the weights, from y's [rows, sum of widths] and what the forward pass had."""
        grad_low, grad_bs = None if low is None else torch.empty_like(low), []
        for part, each, b, at in self._places(grad):
            if b is not None and low is not None and grad_low is not None:
                # Scaled here, where it is smallest; what stood there does not count.
                grad_low[:, at].addmm_(part, b, beta=0, alpha=each.scale)
                grad_bs.append(torch.empty_like(b).addmm_(part.T, low[:, at], beta=0, alpha=each.scale))
        grad_x = self._backward_x(grad, grad_low) if wants_x else None
        if grad_low is None:
            return grad_x, []
        grad_as = (grad_low.T @ x).split([b.shape[1] for b in self.bs])
        return grad_x, [each for pair in zip(grad_as, grad_bs, strict=True) for each in pair]

    def _backward_x(self, grad: Tensor, grad_low: Tensor | None) -> Tensor:
        """One buffer, to which every product is added where it is made."""
        grad_x = None
        for part, each, _, _ in self._places(grad):
            weight = each.weight(grad.dtype)
            grad_x = part @ weight if grad_x is None else grad_x.addmm_(part, weight)
        assert grad_x is not None, "there is at least one projection"
        return grad_x if grad_low is None or self.a is None else grad_x.addmm_(grad_low, self.a)

    def _places(self, y: Tensor) -> Iterator[tuple[Tensor, Projection, Tensor | None, slice]]:
        """Of each projection its columns of y, its b and its columns of low."""
        begin, rank, bs = 0, 0, iter(self.bs)
        for each in self.projections:
            b = next(bs) if each.has_pair else None
            width = 0 if b is None else b.shape[1]
            yield y[:, begin : begin + each.width], each, b, slice(rank, rank + width)
            begin, rank = begin + each.width, rank + width


class LoraLinears(torch.autograd.Function):
    """x [..., in] -> [..., sum of widths] in x's dtype; weights are those of `Pairs.of`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, projections: Sequence[Projection], *weights: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        pairs = Pairs.of(projections, weights, x.dtype)
        low = pairs.low(rows)
        ctx.save_for_backward(rows, low, pairs.a, *pairs.bs)
        ctx.projections, ctx.shape = projections, x.shape
        return pairs.forward(rows, low).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        rows, low, a, *bs = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        pairs = Pairs(ctx.projections, a, bs)
        grad_x, grad_weights = pairs.backward(grad, rows, low, ctx.needs_input_grad[0])
        return grad_x if grad_x is None else grad_x.view(ctx.shape), None, *grad_weights


def lora_linears(x: Tensor, projections: Sequence[Projection], weights: Sequence[Tensor]) -> Tensor:
    """`LoraLinears`, typed."""
    y: Tensor = LoraLinears.apply(x, projections, *weights)  # type: ignore[no-untyped-call]
    return y


def dense_of(base: Any) -> Dense:
    """The weight of a linear, of floats or of bitsandbytes' 4-bit codes."""
    state = getattr(base.weight, "quant_state", None)
    if state is None:
        return lambda dtype: base.weight.to(dtype)
    # The scales are un-nested once; the codes are looked up each time, since sharding moves them.
    absmax = from_state(base.weight.data, state, base.out_features).absmax

    def dense(dtype: torch.dtype) -> Tensor:
        codes = base.weight.data.view(torch.uint8).view(base.out_features, -1)
        return Nf4Weight(codes, absmax).dequantize(dtype)

    return dense
