"""An adapter in the shape of the decoder's linears: one contiguous blob, and packs of several of them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adapters.normal import LowRank
from server.kernels.lora import LoraPack
from server.model.config import ModelConfig
from server.model.step import FUSED


@dataclass(frozen=True)
class Pair:
    """One low-rank pair inside a blob: a [rank, in] at a_at, b [rank, out] at b_at (elements).

    It changes columns [column, column + out) of the decoder's linear.
    """

    layer: int
    linear: str
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

    def to(self, device: torch.device) -> "AdapterBlob":
        """One copy, asynchronous if the blob is pinned."""
        return replace(self, flat=self.flat.to(device, non_blocking=True))

    def pinned(self) -> "AdapterBlob":
        return replace(self, flat=self.flat.pin_memory())

    def a(self, pair: Pair) -> Tensor:
        return self.flat[pair.a_at : pair.b_at].view(pair.rank, pair.width_in)

    def b(self, pair: Pair) -> Tensor:
        return self.flat[pair.b_at : pair.b_at + pair.rank * pair.width_out].view(pair.rank, pair.width_out)


def make_blob(weights: Mapping[str, LowRank], config: ModelConfig, dtype: torch.dtype) -> AdapterBlob:
    """From the normal form, whose names are those of the checkpoint's linears."""
    pairs: list[Pair] = []
    tensors: list[Tensor] = []
    at = 0
    for layer, linear, name, column in _places(config):
        low_rank = weights.get(name)
        if low_rank is None:
            continue
        rank, width_in, width_out = *low_rank.a.shape, low_rank.b.shape[0]
        pair = Pair(layer, linear, column, rank, width_in, width_out, at, at + rank * width_in)
        at = pair.b_at + rank * width_out
        pairs.append(pair)
        tensors += [low_rank.a.reshape(-1).to(dtype), low_rank.b.T.reshape(-1).to(dtype)]
    assert len(pairs) == len(weights), "an adapter changes a linear that the base does not have"
    return AdapterBlob(torch.cat(tensors), tuple(pairs))


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


def _places(config: ModelConfig) -> list[tuple[int, str, str, int]]:
    """(layer, decoder's linear, checkpoint's linear, first column) of every linear."""
    shapes = config.linear_shapes()
    places = []
    for layer in range(config.num_layers):
        for linear, parts in FUSED.items():
            column = 0
            for part in parts:
                name = f"model.layers.{layer}.{part}"
                places.append((layer, linear, name, column))
                column += shapes[name][0]
    return places


def _output_widths(config: ModelConfig) -> dict[str, int]:
    shapes = config.linear_shapes()
    return {linear: sum(shapes[f"model.layers.0.{p}"][0] for p in parts) for linear, parts in FUSED.items()}
