"""A frozen linear and its low-rank pair as one node of the graph.

    y = x W' + b + s (x A') B'

W is made from its codes where it is needed, twice, and never kept. PEFT's own forward is the slow twin.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels.nf4 import Nf4Weight, from_state

# A weight [out, in] in the number format that is asked for.
Dense = Callable[[torch.dtype], Tensor]


class LoraLinear(torch.autograd.Function):
    """x [..., in], a [rank, in], b [out, rank] -> [..., out] in x's dtype; a and b may have another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, b: Tensor, weight: Dense, bias: Any, scale: float) -> Tensor:
        rows, a, b = x.reshape(-1, x.shape[-1]), a.to(x.dtype), b.to(x.dtype)
        y = F.linear(rows, weight(x.dtype), bias)
        low = rows @ a.T
        y.addmm_(low, b.T, alpha=scale)
        ctx.save_for_backward(rows, a, b, low)
        ctx.weight, ctx.scale, ctx.shape = weight, scale, x.shape
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        rows, a, b, low = ctx.saved_tensors
        grad = grads[0].reshape(-1, grads[0].shape[-1])
        # Scaled here, where it is smallest.
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_a, grad_b = grad_low.T @ rows, (grad.T @ low).mul_(ctx.scale)
        if not ctx.needs_input_grad[0]:
            return None, grad_a, grad_b, None, None, None
        grad_x = grad @ ctx.weight(grad.dtype)
        grad_x.addmm_(grad_low, a)
        return grad_x.view(ctx.shape), grad_a, grad_b, None, None, None


def lora_linear(x: Tensor, a: Tensor, b: Tensor, weight: Dense, bias: Tensor | None, scale: float) -> Tensor:
    """`LoraLinear`, typed."""
    y: Tensor = LoraLinear.apply(x, a, b, weight, bias, scale)  # type: ignore[no-untyped-call]
    return y


def dense_of(base: Any) -> Dense:
    """The weight of a linear, of floats or of bitsandbytes' 4-bit codes."""
    state = getattr(base.weight, "quant_state", None)
    if state is None:
        return base.weight.to  # type: ignore[no-any-return]
    # The scales are un-nested once; the codes are looked up each time, since sharding moves them.
    absmax = from_state(base.weight.data, state, base.out_features).absmax

    def dense(dtype: torch.dtype) -> Tensor:
        codes = base.weight.data.view(torch.uint8).view(base.out_features, -1)
        return Nf4Weight(codes, absmax).dequantize(dtype)

    return dense
