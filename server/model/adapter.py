"""An adapter in the shape of the decoder's linears: one contiguous blob."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from adapters.normal import AdapterWeights
from server.model.finite import is_finite
from server.model.tables import from_tables

# Memory for so many elements of a dtype.
Allocate = Callable[[int, torch.dtype], Tensor]
# Elements; what begins at a multiple can be read 16 bytes at a time.
ALIGNMENT = 8
# Stands for a layer's number where the tables do.
_TABLES = -1
# What a vector is, in the order of a slot's row of AdapterMemory.extras.
GAIN, BIAS, INPUT_GAIN = range(3)


@dataclass(frozen=True)
class Pair:
    """One low-rank pair in a blob: a [rank, in] at a_at, b [out, rank rounded up to 8] at b_at (elements).

    It changes columns [column, column + out) of the decoder's linear, and is the layer's part-th of seven.
    """

    layer: int
    linear: str
    part: int
    column: int
    rank: int
    width_in: int
    width_out: int
    a_at: int
    b_at: int


@dataclass(frozen=True)
class Vector:
    """One float32 vector of a linear, at `at` (elements of the blob): `kind` says what it does.

    GAIN and BIAS work on columns [column, column + width) of the decoder's linear, INPUT_GAIN on its input.
    """

    layer: int
    linear: str
    part: int
    column: int
    kind: int
    width: int
    at: int


@dataclass(frozen=True)
class Table:
    """What an adapter brings beside its linears (see server/model/tables.py), at `at` (elements)."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    at: int


@dataclass(frozen=True)
class AdapterBlob:
    """All of one adapter, layer by layer and then its tables, with the scale folded into b.

    vocab_size: tokens that it knows; 0: those of the base.
    """

    flat: Tensor
    pairs: tuple[Pair, ...]
    vectors: tuple[Vector, ...] = ()
    tables: tuple[Table, ...] = ()
    vocab_size: int = 0

    @property
    def num_bytes(self) -> int:
        return self.flat.numel() * self.flat.element_size()

    @cached_property
    def weights(self) -> AdapterWeights:
        """What it brings beside its linears, inside the blob."""
        return from_tables({table.name: self.table(table) for table in self.tables})

    @cached_property
    def is_plain(self) -> bool:
        """Whether low-rank pairs are all it has."""
        return not self.vectors and not self.tables

    @cached_property
    def has_split_inputs(self) -> bool:
        """Whether linears that are one in the decoder need inputs of their own."""
        return any(v.kind == INPUT_GAIN and v.linear in ("qkv", "gate_up") for v in self.vectors)

    def a(self, pair: Pair) -> Tensor:
        """[rank, in]."""
        return self.flat[pair.a_at : pair.a_at + pair.rank * pair.width_in].view(pair.rank, pair.width_in)

    def b(self, pair: Pair) -> Tensor:
        """[rank, out]."""
        padded = round_up(pair.rank)
        whole = self.flat[pair.b_at : pair.b_at + pair.width_out * padded].view(pair.width_out, padded)
        return whole[:, : pair.rank].T

    def vector(self, vector: Vector) -> Tensor:
        """[width] float32."""
        return self._view(vector.at, (vector.width,), torch.float32)

    def table(self, table: Table) -> Tensor:
        return self._view(table.at, table.shape, table.dtype)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Everything in it, and what it is."""
        for pair in self.pairs:
            yield f"low-rank pair of {pair.linear} in layer {pair.layer}", self.a(pair)
            yield f"low-rank pair of {pair.linear} in layer {pair.layer}", self.b(pair)
        for vector in self.vectors:
            yield f"vector of {vector.linear} in layer {vector.layer}", self.vector(vector)
        for table in self.tables:
            yield table.name, self.table(table)

    def overflows(self) -> str:
        """What in it is no finite number; "" if all is."""
        # Vectors and tables may be of another dtype than `flat`, and pairs lie crosswise in it.
        if self.is_plain and is_finite(self.flat):
            return ""
        return next((what for what, tensor in self.tensors() if not is_finite(tensor)), "")

    def layers(self) -> list[slice]:
        """Where each layer's part stands, one after another, the tables last; a layer unchanged has none."""
        starts = list(self._starts().values())
        return [slice(*ends) for ends in zip(starts, [*starts[1:], self.flat.numel()], strict=True)]

    def moved(self, flat: Tensor, starts: list[int]) -> "AdapterBlob":
        """The same adapter inside another tensor, in which its layers begin at `starts`."""
        old = self._starts()
        shift = {layer: new - at for (layer, at), new in zip(old.items(), starts, strict=True)}
        return replace(
            self,
            flat=flat,
            pairs=tuple(
                replace(p, a_at=p.a_at + shift[p.layer], b_at=p.b_at + shift[p.layer]) for p in self.pairs
            ),
            vectors=tuple(replace(v, at=v.at + shift[v.layer]) for v in self.vectors),
            tables=tuple(replace(t, at=t.at + shift[_TABLES]) for t in self.tables),
        )

    def places(self, num_layers: int) -> Tensor:
        """[layers, 7, 4] int32, a slot's rows of AdapterMemory.places."""
        rows: list[list[tuple[int, ...]]] = [[(0, 0, 0, 0)] * 7 for _ in range(num_layers)]
        for pair in self.pairs:
            rows[pair.layer][pair.part] = (pair.a_at // ALIGNMENT, pair.b_at // ALIGNMENT, pair.rank, 0)
        return torch.from_numpy(np.array(rows, dtype=np.int32))

    def extras(self, num_layers: int) -> Tensor:
        """[layers, 7, 4] int32, a slot's rows of AdapterMemory.extras."""
        extras = np.full((num_layers, 7, 4), -1, dtype=np.int32)
        for vector in self.vectors:
            extras[vector.layer, vector.part, vector.kind] = vector.at // ALIGNMENT
        return torch.from_numpy(extras)

    def _view(self, at: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        size = math.prod(shape) * dtype.itemsize // self.flat.element_size()
        return self.flat[at : at + size].view(dtype).view(shape)

    def _starts(self) -> dict[int, int]:
        """Layer -> where its part begins; the tables' is _TABLES."""
        begun = [(p.layer, p.a_at) for p in self.pairs] + [(v.layer, v.at) for v in self.vectors]
        begun += [(_TABLES, t.at) for t in self.tables]
        starts: dict[int, int] = {}
        for layer, at in sorted(begun, key=lambda each: each[1]):
            starts.setdefault(layer, at)
        return starts


def round_up(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT
