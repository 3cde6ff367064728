"""Rotary angles from a table: the same bits for a position whatever else is in the pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.concurrent.linear import Seats

# Vectorized cosines differ from a remainder's in the last bit; blocks of one size have the same remainders.
BLOCK = 256


class TableRotary(nn.Module):
    """Stands where the base's own rotary embedding stood, and asks it for each block of positions once."""

    def __init__(self, rotary: Any, seats: Seats) -> None:
        super().__init__()
        self._rotary = rotary
        self._seats = seats
        self._blocks: list[tuple[Tensor, Tensor]] = []

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """x says dtype and device; position_ids [1, tokens] -> cos, sin [1, tokens, dim]."""
        assert self._seats.batch is not None, "no pass is running"
        while len(self._blocks) * BLOCK < self._seats.batch.longest:
            self._blocks.append(self._block(len(self._blocks) * BLOCK, x))
        cos, sin = (torch.cat(parts) for parts in zip(*self._blocks, strict=True))
        return cos[position_ids], sin[position_ids]

    def _block(self, start: int, x: Tensor) -> tuple[Tensor, Tensor]:
        positions = torch.arange(start, start + BLOCK, device=x.device)
        cos, sin = self._rotary(x.detach(), positions[None])
        return cos[0], sin[0]
