"""The adapters of a step side by side, for plain torch."""

from dataclasses import dataclass

import torch
from torch import Tensor

from server.kernels.adjust import PartChange
from server.kernels.lora import LoraPack
from server.model.adapter import BIAS, GAIN, INPUT_GAIN, AdapterBlob, Pair
from server.model.config import ModelConfig
from server.model.parts import FUSED, linear_parts

_NAMES = {GAIN: "gain", BIAS: "bias", INPUT_GAIN: "input_gain"}
# (layer, decoder's linear)
Place = tuple[int, str]


@dataclass(frozen=True)
class Packs:
    """lora: for each layer, the pairs of every linear that any adapter changes.

    changes: what the adapters, by their index, do around a linear besides.
    """

    lora: list[dict[str, LoraPack]]
    changes: dict[Place, dict[int, tuple[PartChange, ...]]]


def pack(blobs: list[AdapterBlob], config: ModelConfig) -> Packs:
    """`blobs` in the order of their segments."""
    by_place: dict[Place, list[tuple[int, AdapterBlob, Pair]]] = {}
    changes: dict[Place, dict[int, tuple[PartChange, ...]]] = {}
    for index, blob in enumerate(blobs):
        for pair in blob.pairs:
            by_place.setdefault((pair.layer, pair.linear), []).append((index, blob, pair))
        for place, parts in changes_of(blob, config).items():
            changes.setdefault(place, {})[index] = parts
    widths = _output_widths(config)
    packs: list[dict[str, LoraPack]] = [{} for _ in range(config.num_layers)]
    for (layer, linear), members in by_place.items():
        packs[layer][linear] = _pack_linear(members, len(blobs), widths[linear])
    return Packs(packs, changes)


def changes_of(blob: AdapterBlob, config: ModelConfig) -> dict[Place, tuple[PartChange, ...]]:
    """What the adapter's vectors do, linear by linear."""
    found: dict[Place, dict[int, dict[str, Tensor]]] = {}
    for vector in blob.vectors:
        of_part = found.setdefault((vector.layer, vector.linear), {}).setdefault(vector.part, {})
        of_part[_NAMES[vector.kind]] = blob.vector(vector)
    parts = {part.index: part for parts in linear_parts(config).values() for part in parts}
    return {
        place: tuple(PartChange(parts[index], **vectors) for index, vectors in by_part.items())
        for place, by_part in found.items()
    }


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


def _output_widths(config: ModelConfig) -> dict[str, int]:
    shapes = config.linear_shapes()
    return {linear: sum(shapes[f"model.layers.0.{p}"][0] for p in parts) for linear, parts in FUSED.items()}
