"""What an adapter makes of each tensor, in float32.

W' = gain * (W * input_gain + delta)      b' = gain * b + bias      delta = B A
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from adapters.normal import AdapterWeights, LinearChange, LowRank, TokenRows

# [out, in] float32 of a linear's update, None where there is none.
Delta = Callable[[str], Tensor | None]


@dataclass(frozen=True)
class Changes:
    """An adapter's, or several adapters' together; `delta` is theirs instead of the pairs' product."""

    weights: AdapterWeights
    delta: Delta | None = None

    def linear(self, name: str, weight: Tensor) -> Tensor:
        """weight [out, in] float32 of the linear `name` -> W'; the very tensor where nothing changes it."""
        change = self.weights.linears.get(name)
        if change is None:
            return weight
        delta = self.delta(name) if self.delta else product(change.low_rank)
        scaled = weight if change.input_gain is None else weight * change.input_gain.float()
        moved = scaled if delta is None else scaled + delta
        return moved if change.gain is None else moved * change.gain.float().unsqueeze(1)

    def bias(self, name: str, bias: Tensor | None) -> Tensor | None:
        """bias [out] float32 of the linear `name` -> b'; None where there is none and none is needed."""
        change = self.weights.linears.get(name, LinearChange())
        if bias is not None and change.gain is not None:
            bias = bias * change.gain.float()
        if change.bias is None:
            return bias
        return change.bias.float() if bias is None else bias + change.bias.float()

    def norm(self, name: str, weight: Tensor) -> Tensor:
        return self.weights.norms[name].float() if name in self.weights.norms else weight

    def embedding(self, table: Tensor) -> Tensor:
        """[vocab, hidden] -> [vocab + added tokens, hidden]."""
        change = self.weights.embedding
        if change is None:
            return table
        if change.full is not None:
            table = change.full.float()
        if change.low_rank is not None:
            table = table + _product(change.low_rank).T
        return _with_rows(table, change.rows)

    def head(self, table: Tensor) -> Tensor:
        """[vocab, hidden] -> [vocab + added tokens, hidden]."""
        change = self.weights.head
        if change is None:
            return table
        if change.full is not None:
            table = change.full.float()
        if change.low_rank is not None:
            table = table + _product(change.low_rank)
        return _with_rows(table, change.rows)


def product(pair: LowRank | None) -> Tensor | None:
    return None if pair is None else _product(pair)


def _product(pair: LowRank) -> Tensor:
    return pair.b.float() @ pair.a.float()


def _with_rows(table: Tensor, rows: TokenRows | None) -> Tensor:
    if rows is None:
        return table
    longer = max(int(rows.ids[-1]) + 1 - table.shape[0], 0)
    table = torch.cat([table, table.new_zeros(longer, table.shape[1])])
    return table.index_copy(0, rows.ids, rows.rows.float())
