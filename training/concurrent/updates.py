"""What the adapters of a pass add to one linear, and what comes back to them: y[job] += (x[job] A^T) B.

Two twins: one product after another for each job, or one grouped product for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import repeat
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

# Grouped products want rows of 16 bytes.
ALIGNED_RANK = 8


@dataclass(slots=True)
class Pair:
    """One job's low-rank pair for one linear, and where its gradient gathers.

    a: [rank, in]. b: [rank, out], B transposed, times scale. grad_a, grad_b: float32, shaped alike; the
    second is without the scale. down: [in, rank] and up: [out, rank] are views of a and b.
    """

    a: Tensor
    b: Tensor
    scale: float
    grad_a: Tensor
    grad_b: Tensor
    down: Tensor = field(init=False)
    up: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.down, self.up = self.a.T, self.b.T


class Updates(Protocol):
    """The pairs of a pass for one linear."""

    def add(self, y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """y [tokens, out] += the updates of x [tokens, in], in place; what `gather` wants to see again."""

    def gather(self, grad_y: Tensor, grad_x: Tensor | None, x: Tensor, *kept: Tensor) -> None:
        """grad_x [tokens, in], if wanted, += what came through the pairs; the pairs' gradients grow."""


@dataclass(frozen=True, slots=True)
class OneByOne:
    """Products of a job's own shape, so that no bit of them depends on who else is there.

    sizes: tokens of each job. pairs: None for a job that leaves the linear alone.
    """

    sizes: Sequence[int]
    pairs: Sequence[Pair | None]

    def add(self, y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        kept = []
        for pair, out, mine in zip(self.pairs, y.split(self.sizes), x.split(self.sizes), strict=True):
            if pair is not None:
                low = torch.mm(mine, pair.down)
                out.addmm_(low, pair.b)
                kept.append(low)
        return tuple(kept)

    def gather(self, grad_y: Tensor, grad_x: Tensor | None, x: Tensor, *kept: Tensor) -> None:
        lows, outs = iter(kept), repeat(None) if grad_x is None else grad_x.split(self.sizes)
        parts = zip(self.pairs, grad_y.split(self.sizes), x.split(self.sizes), outs, strict=False)
        for pair, grad, mine, out in parts:
            if pair is not None:
                grad_low = torch.mm(grad, pair.up)
                if out is not None:
                    out.addmm_(grad_low, pair.a)
                _add_product(pair.grad_a, grad_low.T, mine, 1.0)
                _add_product(pair.grad_b, next(lows).T, grad, pair.scale)


class Grouped:
    """One product for all jobs; pairs of lower rank are padded with zeros, a job without one is all zeros."""

    def __init__(self, pairs: Sequence[Pair | None], ends: Tensor) -> None:
        """`pairs` has one for each segment of the pass; `ends` int32 [segments], where each ends."""
        self._pairs, self._ends = pairs, ends

    @cached_property
    def _stacks(self) -> tuple[Tensor, Tensor]:
        """A [segments, rank, in] and B [segments, rank, out]; made at first use, when a GPU is busy."""
        present = next(pair for pair in self._pairs if pair is not None)
        rank = max(pair.a.shape[0] for pair in self._pairs if pair is not None)
        aligned = -(-rank // ALIGNED_RANK) * ALIGNED_RANK
        return (
            _stacked([None if pair is None else pair.a for pair in self._pairs], aligned, present.a),
            _stacked([None if pair is None else pair.b for pair in self._pairs], aligned, present.b),
        )

    def add(self, y: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        a, b = self._stacks
        low: Tensor = F.grouped_mm(x, a.transpose(1, 2), offs=self._ends)
        y.add_(F.grouped_mm(low, b, offs=self._ends))
        return (low,)

    def gather(self, grad_y: Tensor, grad_x: Tensor | None, x: Tensor, *kept: Tensor) -> None:
        a, b = self._stacks
        grad_low = F.grouped_mm(grad_y, b.transpose(1, 2), offs=self._ends)
        if grad_x is not None:
            grad_x.add_(F.grouped_mm(grad_low, a, offs=self._ends))
        grad_a = F.grouped_mm(grad_low.T, x, offs=self._ends)
        grad_b = F.grouped_mm(kept[0].T, grad_y, offs=self._ends)
        for pair, of_a, of_b in zip(self._pairs, grad_a, grad_b, strict=True):
            if pair is not None:
                rank = pair.a.shape[0]
                pair.grad_a.add_(of_a[:rank])
                pair.grad_b.add_(of_b[:rank], alpha=pair.scale)


def _add_product(total: Tensor, left: Tensor, right: Tensor, scale: float) -> None:
    """total += scale * left right, in one call where all have one number format."""
    if total.dtype == right.dtype:
        total.addmm_(left, right, alpha=scale)
    else:
        total.add_(torch.mm(left, right), alpha=scale)


def _stacked(parts: Sequence[Tensor | None], rank: int, like: Tensor) -> Tensor:
    """[len(parts), rank, width of `like`]."""
    pieces: list[Tensor] = []
    for part in parts:
        rows = 0 if part is None else part.shape[0]
        pieces += [] if part is None else [part]
        pieces += [] if rows == rank else [like.new_zeros(rank - rows, like.shape[1])]
    return torch.cat(pieces).view(len(parts), rank, like.shape[1])
