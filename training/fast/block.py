"""The two halves of a decoder layer, each of which adds to its input what it makes of it.

y = x + last(inner(x))
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from training.fast.elementwise import Kernels, heads_of, silu_mul
from training.fast.group import Group

# cos and sin [batch or 1, length, dim / 2] of every token's place.
Angles = tuple[Tensor, Tensor]


class Block:
    """`first` are the linears behind the norm, `last` is the one before the sum."""

    def __init__(self, norm: Any, first: Group, last: Group, kernels: Kernels) -> None:
        self._norm, self.first, self.last, self._kernels = norm, first, last, kernels

    def __call__(self, x: Tensor, angles: Angles, recomputes: bool) -> Tensor:
        """x [batch, length, width] -> the same."""
        first, last = self.first.weights(), self.last.weights()
        if recomputes:
            y: Tensor = Recomputed.apply(x, self, angles, *first, *last)  # type: ignore[no-untyped-call]
            return y
        return x + self.last(self.inner(x, angles, first), last)

    def is_plain(self) -> bool:
        return self.first.is_plain() and self.last.is_plain()

    def weights(self) -> list[nn.Parameter]:
        return self.first.weights() + self.last.weights()

    def inner(self, x: Tensor, angles: Angles, weights: Sequence[Tensor]) -> Tensor:
        """All up to the last linear; `weights` are those of `first`."""
        return self._between(self.first(self._kernels.rms_norm(self._norm, x), weights), angles)

    def _between(self, y: Tensor, angles: Angles) -> Tensor:
        raise NotImplementedError


class Attention(Block):
    """Of a layer's own module for it, whose heads are turned by their place and nothing else."""

    def __init__(self, norm: Any, attention: Any, kernels: Kernels) -> None:
        first = Group(attention.q_proj, attention.k_proj, attention.v_proj)
        super().__init__(norm, first, Group(attention.o_proj), kernels)
        self._dim, self._scaling = attention.head_dim, attention.scaling
        self._kv_heads = attention.config.num_key_value_heads

    def _between(self, y: Tensor, angles: Angles) -> Tensor:
        qkv = y.unflatten(-1, (-1, self._dim))
        q, k, v = heads_of(qkv, *angles, self._kv_heads, self._kernels)
        is_grouped = q.shape[1] != k.shape[1]
        heads = self._kernels.attention(q, k, v, is_causal=True, scale=self._scaling, enable_gqa=is_grouped)
        return heads.transpose(1, 2).flatten(2)


class FeedForward(Block):
    """silu(gate) * up, then down."""

    def __init__(self, norm: Any, mlp: Any, kernels: Kernels) -> None:
        super().__init__(norm, Group(mlp.gate_proj, mlp.up_proj), Group(mlp.down_proj), kernels)

    def _between(self, y: Tensor, angles: Angles) -> Tensor:
        return silu_mul(y, self._kernels)


class Recomputed(torch.autograd.Function):
    """A block that keeps its input alone, and does `inner` again for its gradients.

    The last linear is not done again: its gradients need only what it multiplies.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, block: Block, angles: Angles, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, *weights)
        ctx.block, ctx.angles = block, angles
        num_first = len(block.first.weights())
        y = block.last(block.inner(x, angles, weights[:num_first]), weights[num_first:])
        return y.add_(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, *weights = ctx.saved_tensors
        num_first = len(ctx.block.first.weights())
        first, last = weights[:num_first], weights[num_first:]
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            h = ctx.block.inner(x, ctx.angles, first)
        grad_h, grad_last = ctx.block.last.backward(grads[0], h.detach(), last)
        grad_x, *grad_first = torch.autograd.grad(h, [x, *first], grad_h)
        return grad_x.add_(grads[0]), None, None, *grad_first, *grad_last
