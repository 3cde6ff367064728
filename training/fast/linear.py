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
    """The pairs of some projections as one, in the rows' format.

    a: [sum of ranks, in]. b: [sum of widths, sum of ranks], each pair's own where its outputs and its ranks
    meet, and nothing elsewhere: that costs the device less than a call for each pair costs the host.
    scale: the largest; what others are less is in b.
    """

    projections: Sequence[Projection]
    ranks: Sequence[int]
    a: Tensor | None
    b: Tensor | None
    scale: float = 1.0

    @classmethod
    def of(cls, projections: Sequence[Projection], weights: Sequence[Tensor], dtype: torch.dtype) -> Pairs:
        """weights: A and B of every projection that has a pair, in order; they may have another format."""
        if not weights:
            return cls(projections, (), None, None)
        ranks = [weight.shape[0] for weight in weights[::2]]
        scale = max(each.scale for each in projections if each.has_pair)
        if len(projections) == 1:
            a, b = weights
            return cls(projections, ranks, a.to(dtype), b.to(dtype), scale)
        first = weights[0]
        a = first.new_empty(sum(ranks), first.shape[1], dtype=dtype)
        b = first.new_zeros(sum(each.width for each in projections), len(a), dtype=dtype)
        pairs = cls(projections, ranks, a, b, scale)
        torch._foreach_copy_([*a.split(ranks), *pairs.blocks(b)], [*weights[::2], *weights[1::2]])
        for block, more in zip(pairs.blocks(b), pairs._more(), strict=True):
            if more != 1.0:
                block *= more
        return pairs

    def blocks(self, b: Tensor) -> list[Tensor]:
        """Each pair's part of b, or of its gradient."""
        ranks, column, row, blocks = iter(self.ranks), 0, 0, []
        for each in self.projections:
            if each.has_pair:
                rank = next(ranks)
                blocks.append(b[row : row + each.width, column : column + rank])
                column += rank
            row += each.width
        return blocks

    def low(self, x: Tensor) -> Tensor | None:
        """x [rows, in] -> [rows, ranks]."""
        return None if self.a is None else x @ self.a.T

    def forward(self, x: Tensor, low: Tensor | None) -> Tensor:
        """x [rows, in] -> [rows, sum of widths]."""
        y = x.new_empty(len(x), sum(each.width for each in self.projections))
        for part, each in self._parts(y):
            torch.mm(x, each.weight(x.dtype).T, out=part)
            if each.bias is not None:
                part += each.bias
        return y if self.b is None or low is None else y.addmm_(low, self.b.T, alpha=self.scale)

    def backward(
        self, grad: Tensor, x: Tensor, low: Tensor | None, wants_x: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of x and of the weights, from y's [rows, sum of widths] and what the forward pass had."""
        if low is None or self.b is None:
            return (self._backward_x(grad, None) if wants_x else None), []
        # Scaled here, where it is smallest; what stood there does not count.
        grad_low = torch.empty_like(low).addmm_(grad, self.b, beta=0, alpha=self.scale)
        grad_b = torch.empty_like(self.b).addmm_(grad.T, low, beta=0, alpha=self.scale)
        grad_x = self._backward_x(grad, grad_low) if wants_x else None
        grad_as = (grad_low.T @ x).split(list(self.ranks))
        more = zip(self.blocks(grad_b), self._more(), strict=True)
        grad_bs = [block if factor == 1.0 else block * factor for block, factor in more]
        return grad_x, [each for pair in zip(grad_as, grad_bs, strict=True) for each in pair]

    def _backward_x(self, grad: Tensor, grad_low: Tensor | None) -> Tensor:
        """One buffer, to which every product is added where it is made."""
        grad_x = None
        for part, each in self._parts(grad):
            weight = each.weight(grad.dtype)
            grad_x = part @ weight if grad_x is None else grad_x.addmm_(part, weight)
        assert grad_x is not None, "there is at least one projection"
        return grad_x if grad_low is None or self.a is None else grad_x.addmm_(grad_low, self.a)

    def _parts(self, y: Tensor) -> Iterator[tuple[Tensor, Projection]]:
        """Each projection's columns of y."""
        if len(self.projections) == 1:
            return iter([(y, self.projections[0])])
        return zip(y.split([each.width for each in self.projections], 1), self.projections, strict=True)

    def _more(self) -> list[float]:
        """What of `scale` each pair has."""
        return [each.scale / self.scale if self.scale else 0.0 for each in self.projections if each.has_pair]


class LoraLinears(torch.autograd.Function):
    """x [..., in] -> [..., sum of widths] in x's dtype; weights are those of `Pairs.of`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, projections: Sequence[Projection], *weights: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        pairs = Pairs.of(projections, weights, x.dtype)
        low = pairs.low(rows)
        ctx.save_for_backward(rows, low, pairs.a, pairs.b)
        ctx.projections, ctx.ranks, ctx.scale, ctx.shape = projections, pairs.ranks, pairs.scale, x.shape
        return pairs.forward(rows, low).view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        rows, low, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        pairs = Pairs(ctx.projections, ctx.ranks, a, b, ctx.scale)
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
