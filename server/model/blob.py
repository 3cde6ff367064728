"""From the normal form to the blob that the engine serves."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from adapters.normal import AdapterWeights, LinearChange
from server.model.adapter import (
    BIAS,
    GAIN,
    INPUT_GAIN,
    AdapterBlob,
    Allocate,
    Pair,
    Table,
    Vector,
    round_up,
)
from server.model.config import ModelConfig
from server.model.parts import FUSED, linear_parts
from server.model.tables import to_tables, vocab_size


def make_blob(
    weights: AdapterWeights, config: ModelConfig, dtype: torch.dtype, allocate: Allocate | None = None
) -> AdapterBlob:
    """Every linear that the weights name must be one of the base's.

    allocate: where the blob stands, whatever was there before; fresh memory unless told.
    """
    plan = _Plan(dtype)
    changes = 0
    for layer, linear, part, name, column in _places(config):
        change = weights.linears.get(name)
        if change is not None:
            plan.add_linear(change, (layer, linear, part, column))
            changes += 1
    assert changes == len(weights.linears), "an adapter changes a linear that the base does not have"
    for name, table in to_tables(weights).items():
        plan.add_table(name, table)
    known = vocab_size(weights, config.vocab_size)
    flat = (allocate or _fresh)(plan.at, dtype)
    return plan.fill(flat, 0 if known == config.vocab_size else known)


@dataclass
class _Plan:
    """Where everything will stand, and what will stand there."""

    dtype: torch.dtype
    at: int = 0
    used: int = 0
    pairs: list[tuple[Pair, Tensor, Tensor]] = field(default_factory=list)
    vectors: list[tuple[Vector, Tensor]] = field(default_factory=list)
    tables: list[tuple[Table, Tensor]] = field(default_factory=list)

    def add_linear(self, change: LinearChange, place: tuple[int, str, int, int]) -> None:
        layer, linear, part, column = place
        if change.low_rank is not None:
            a, b = change.low_rank.a, change.low_rank.b
            rank, width_in, width_out = *a.shape, b.shape[0]
            a_at, b_at = self._take(a.numel()), self._take(width_out * round_up(rank), width_out * rank)
            pair = Pair(layer, linear, part, column, rank, width_in, width_out, a_at, b_at)
            self.pairs.append((pair, a, b))
        for kind, values in ((GAIN, change.gain), (BIAS, change.bias), (INPUT_GAIN, change.input_gain)):
            if values is not None:
                width = values.shape[0]
                at = self._take_bytes(width * torch.float32.itemsize)
                self.vectors.append((Vector(layer, linear, part, column, kind, width, at), values))

    def add_table(self, name: str, table: Tensor) -> None:
        dtype = self.dtype if table.is_floating_point() else table.dtype
        at = self._take_bytes(table.numel() * dtype.itemsize)
        self.tables.append((Table(name, tuple(table.shape), dtype, at), table))

    def fill(self, flat: Tensor, vocab_size: int) -> AdapterBlob:
        if self.at > self.used:
            # Between the parts and beside the ranks.
            flat.zero_()
        blob = AdapterBlob(
            flat,
            tuple(pair for pair, _, _ in self.pairs),
            tuple(vector for vector, _ in self.vectors),
            tuple(table for table, _ in self.tables),
            vocab_size,
        )
        for pair, a, b in self.pairs:
            blob.a(pair).copy_(a)
            blob.b(pair).copy_(b.T)
        for vector, values in self.vectors:
            blob.vector(vector).copy_(values)
        for table, source in self.tables:
            blob.table(table).copy_(source)
        return blob

    def _take_bytes(self, num_bytes: int) -> int:
        return self._take(num_bytes // self.dtype.itemsize)

    def _take(self, count: int, used: int | None = None) -> int:
        at = self.at
        self.used += count if used is None else used
        self.at += round_up(count)
        return at


def _fresh(num_elements: int, dtype: torch.dtype) -> Tensor:
    # numpy asks for huge pages, where torch's memory costs a fault for every 4 kB.
    return torch.from_numpy(np.empty(num_elements * dtype.itemsize, dtype=np.uint8)).view(dtype)


def _places(config: ModelConfig) -> Iterator[tuple[int, str, int, str, int]]:
    """(layer, decoder's linear, part, checkpoint's linear, first column) of every linear."""
    parts = linear_parts(config)
    for layer in range(config.num_layers):
        for linear, names in FUSED.items():
            for name, part in zip(names, parts[linear], strict=True):
                yield layer, linear, part.index, f"model.layers.{layer}.{name}", part.column
