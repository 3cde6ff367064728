"""Norms and activations of a base that several jobs share."""

from __future__ import annotations

from collections.abc import Sequence
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


class Silu(ByJob):
    """x sigmoid(x) as one node, however many jobs there are."""

    def forward(self, x: Tensor) -> Tensor:
        if self._seats.together:
            return F.silu(x)
        y: Tensor = _Silu.apply(x, self._seats.sizes)  # type: ignore[no-untyped-call]
        return y


class Norm(nn.Module):
    """RMS norm as one node, however many jobs there are."""

    def __init__(self, inner: Any, seats: Seats) -> None:
        super().__init__()
        self.weight, self._eps = inner.weight, inner.variance_epsilon
        self._seats = seats

    def forward(self, x: Tensor) -> Tensor:
        """x [1, tokens, ..., width]."""
        if self._seats.together and x.is_cuda:
            return F.rms_norm(x, self.weight.shape, self.weight, self._eps)
        y: Tensor = _Norm.apply(x, self.weight, self._eps, self._seats.sizes)  # type: ignore[no-untyped-call]
        return y


class _Silu(torch.autograd.Function):
    """Exponentials of a call's last few numbers round in another way, so calls are of a job's own shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.save_for_backward(x)
        ctx.sizes = sizes
        y = x.clone()
        for part in y.split(sizes, 1):
            F.silu(part, inplace=True)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,), sizes = ctx.saved_tensors, ctx.sizes
        grad_x = torch.empty_like(x)
        for grad, mine, out in zip(*(each.split(sizes, 1) for each in (grads[0], x, grad_x)), strict=True):
            torch.ops.aten.silu_backward.grad_input(grad, mine, grad_input=out)
        return grad_x, None


class _Norm(torch.autograd.Function):
    """y = w x / sqrt(mean(x^2) + eps), w frozen, in float32. All but sums rounds the same in any company."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, sizes: Sequence[int]) -> Tensor:
        x32 = x.float()
        scale = _means(x32 * x32, sizes).add_(eps).sqrt_().reciprocal_()
        ctx.save_for_backward(x, scale, weight)
        ctx.sizes = sizes
        return (x32 * scale).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        x, scale, weight = ctx.saved_tensors
        normed, grad = x * scale, grads[0] * weight.float()
        along = _means(grad * normed, ctx.sizes)
        return grad.sub_(normed.mul_(along)).mul_(scale).to(x.dtype), None, None, None


def _means(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """x [1, tokens, ..., width] -> [1, tokens, ..., 1], summed in a job's own shape each."""
    sums = x.new_empty(*x.shape[:-1], 1)
    for mine, out in zip(x.split(sizes, 1), sums.split(sizes, 1), strict=True):
        torch.sum(mine, -1, keepdim=True, out=out)
    return sums.div_(x.shape[-1])


def is_pointwise(module: nn.Module) -> bool:
    """Norms and activations."""
    others = (SharedLinear, nn.Embedding)
    return not any(True for _ in module.children()) and not isinstance(module, others)


def by_job(module: Any, seats: Seats) -> nn.Module:
    """`module` as jobs can share it."""
    if type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon"):
        return Norm(module, seats)
    return (
        Silu(module, seats) if type(module).__name__ in ("SiLU", "SiLUActivation") else ByJob(module, seats)
    )
