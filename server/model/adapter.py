"""An adapter in the shape of the decoder's linears: one contiguous blob, and packs of several of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from adapters.normal import LowRank
from server.kernels.lora import LoraPack
from server.model.config import ModelConfig
from server.model.step import FUSED, linear_parts

# Memory for so many elements of a dtype.
Allocate = Callable[[int, torch.dtype], Tensor]
# Elements; what begins at a multiple can be read 16 bytes at a time.
ALIGNMENT = 8


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
class AdapterBlob:
    """All pairs of one adapter, one after another, with the scale folded into b."""

    flat: Tensor
    pairs: tuple[Pair, ...]

    @property
    def num_bytes(self) -> int:
        return self.flat.numel() * self.flat.element_size()

    def a(self, pair: Pair) -> Tensor:
        """[rank, in]."""
        return self.flat[pair.a_at : pair.a_at + pair.rank * pair.width_in].view(pair.rank, pair.width_in)

    def b(self, pair: Pair) -> Tensor:
        """[rank, out]."""
        padded = _round_up(pair.rank)
        whole = self.flat[pair.b_at : pair.b_at + pair.width_out * padded].view(pair.width_out, padded)
        return whole[:, : pair.rank].T

    def layers(self) -> list[slice]:
        """Where each layer's pairs stand, one after another; a layer that is not changed has none."""
        starts = [self.pairs[i].a_at for i in range(len(self.pairs)) if self._begins_layer(i)]
        return [slice(*ends) for ends in zip(starts, [*starts[1:], self.flat.numel()], strict=True)]

    def _begins_layer(self, index: int) -> bool:
        return index == 0 or self.pairs[index].layer != self.pairs[index - 1].layer

    def moved(self, flat: Tensor, starts: list[int]) -> "AdapterBlob":
        """The same adapter inside another tensor, in which its layers begin at `starts`."""
        shift_of = {}
        for old, new in zip(self.layers(), starts, strict=True):
            shift_of[old.start] = new - old.start
        pairs, shift = [], 0
        for pair in self.pairs:
            shift = shift_of.get(pair.a_at, shift)
            pairs.append(replace(pair, a_at=pair.a_at + shift, b_at=pair.b_at + shift))
        return AdapterBlob(flat, tuple(pairs))

    def places(self, num_layers: int) -> Tensor:
        """[layers, 7, 4] int32, a slot's rows of AdapterMemory.places."""
        rows: list[list[tuple[int, ...]]] = [[(0, 0, 0, 0)] * 7 for _ in range(num_layers)]
        for pair in self.pairs:
            rows[pair.layer][pair.part] = (pair.a_at // ALIGNMENT, pair.b_at // ALIGNMENT, pair.rank, 0)
        return torch.from_numpy(np.array(rows, dtype=np.int32))


def make_blob(
    weights: Mapping[str, LowRank],
    config: ModelConfig,
    dtype: torch.dtype,
    allocate: Allocate | None = None,
) -> AdapterBlob:
    """From the normal form, whose names are those of the checkpoint's linears.

    allocate: where the blob stands, whatever was there before; fresh memory unless told.
    """
    pairs: list[Pair] = []
    at = 0
    for layer, linear, part, name, column in _places(config):
        low_rank = weights.get(name)
        if low_rank is None:
            continue
        rank, width_in, width_out = *low_rank.a.shape, low_rank.b.shape[0]
        b_at = at + _round_up(rank * width_in)
        pairs.append(Pair(layer, linear, part, column, rank, width_in, width_out, at, b_at))
        at = b_at + width_out * _round_up(rank)
    assert len(pairs) == len(weights), "an adapter changes a linear that the base does not have"
    flat = (allocate or _fresh)(at, dtype)
    if at > sum(pair.rank * (pair.width_in + pair.width_out) for pair in pairs):
        # Between the pairs and beside the ranks.
        flat.zero_()
    blob = AdapterBlob(flat, tuple(pairs))
    names = {(layer, linear, column): name for layer, linear, _, name, column in _places(config)}
    for pair in pairs:
        low_rank = weights[names[pair.layer, pair.linear, pair.column]]
        blob.a(pair).copy_(low_rank.a)
        blob.b(pair).copy_(low_rank.b.T)
    return blob


def _fresh(num_elements: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(num_elements, dtype=dtype)


def _round_up(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def pack(blobs: list[AdapterBlob], config: ModelConfig) -> list[dict[str, LoraPack]]:
    """The pairs of several adapters side by side, for every layer and linear that any of them changes."""
    by_place: dict[tuple[int, str], list[tuple[int, AdapterBlob, Pair]]] = {}
    for index, blob in enumerate(blobs):
        for pair in blob.pairs:
            by_place.setdefault((pair.layer, pair.linear), []).append((index, blob, pair))
    widths = _output_widths(config)
    packs: list[dict[str, LoraPack]] = [{} for _ in range(config.num_layers)]
    for (layer, linear), members in by_place.items():
        packs[layer][linear] = _pack_linear(members, len(blobs), widths[linear])
    return packs


def _pack_linear(members: list[tuple[int, AdapterBlob, Pair]], num_adapters: int, width: int) -> LoraPack:
    bounds = [0] * (num_adapters + 1)
    for index, _, pair in members:
        bounds[index + 1] += pair.rank
    for index in range(num_adapters):
        bounds[index + 1] += bounds[index]
    a = torch.cat([blob.a(pair) for _, blob, pair in members])
    b = a.new_zeros(a.shape[0], width)
    row = 0
    for _, blob, pair in members:
        b[row : row + pair.rank, pair.column : pair.column + pair.width_out] = blob.b(pair)
        row += pair.rank
    return LoraPack(a, b, tuple(bounds))


def _places(config: ModelConfig) -> list[tuple[int, str, int, str, int]]:
    """(layer, decoder's linear, part, checkpoint's linear, first column) of every linear."""
    parts = linear_parts(config)
    return [
        (layer, linear, part.index, f"model.layers.{layer}.{name}", part.column)
        for layer in range(config.num_layers)
        for linear, names in FUSED.items()
        for name, part in zip(names, parts[linear], strict=True)
    ]


def _output_widths(config: ModelConfig) -> dict[str, int]:
    shapes = config.linear_shapes()
    return {linear: sum(shapes[f"model.layers.0.{p}"][0] for p in parts) for linear, parts in FUSED.items()}
