"""One job's adapter: every pair of it in one flat vector, which one optimizer steps as one parameter."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from training.concurrent.base import SharedBase
from training.concurrent.updates import Pair
from training.config import TrainConfig
from training.model import adapt

# Of float32: pairs begin at whole cache lines, so that products of a job see the same alignment everywhere.
ALIGNMENT = 16
ADAPTER = "default"
PREFIX = "base_model.model."


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a linear's pair stands in the vector: A at `a`, B transposed at `b`."""

    layer: Any
    rank: int
    width: int
    rows: int
    scale: float
    a: int
    b: int


class AdapterWeights:
    """PEFT decides names, shapes, scales and the start; here they are laid out to be trained."""

    def __init__(self, base: SharedBase, config: TrainConfig) -> None:
        """Draws A from the config's seed, as a run of its own would. Raises `InvalidConfig`."""
        plain = replace(config, quantization="none", gradient_checkpointing=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model: PeftModel = adapt(base.skeleton(), plain)
        self._places = dict(_places(self.model))
        size = max(_aligned(place.b + place.rank * place.rows) for place in self._places.values())
        self.flat = nn.Parameter(torch.zeros(size, device=base.device))
        self.gradient = torch.zeros_like(self.flat)
        self.flat.grad = self.gradient
        with torch.no_grad():
            for place in self._places.values():
                a, b = _views(self.flat, place)
                a.copy_(place.layer.lora_A[ADAPTER].weight)
                b.copy_(place.layer.lora_B[ADAPTER].weight.T)
        # What passes multiply with: the base's number format, the scale in B.
        self._used = torch.zeros(size, dtype=base.dtype, device=base.device)
        self._pairs = {
            name: Pair(*_views(self._used, place), place.scale, *_views(self.gradient, place))
            for name, place in self._places.items()
        }
        self._scaled = list(_scaled(self._used, self._places.values()))

    @property
    def num_parameters(self) -> int:
        """Weights of the adapter."""
        return sum(place.rank * (place.width + place.rows) for place in self._places.values())

    @torch.no_grad()
    def pairs(self) -> dict[str, Pair]:
        """By linear, as they are now; gradients gather in `gradient`."""
        self._used.copy_(self.flat)
        for part, scale in self._scaled:
            part.mul_(scale)
        return self._pairs

    @torch.no_grad()
    def store(self) -> PeftModel:
        """PEFT's model with the weights as they are now."""
        for place in self._places.values():
            a, b = _views(self.flat, place)
            place.layer.lora_A[ADAPTER].weight.copy_(a)
            place.layer.lora_B[ADAPTER].weight.copy_(b.T)
        return self.model


def _places(model: PeftModel) -> Iterator[tuple[str, _Place]]:
    """Every A, then every B, so that neighbours are scaled in one call."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, LoraLayer)]
    downs = [layer.lora_A[ADAPTER].weight for _, layer in layers]
    ups = [layer.lora_B[ADAPTER].weight for _, layer in layers]
    starts = list(accumulate((_aligned(each.numel()) for each in downs + ups), initial=0))
    for (name, layer), down, up, a, b in zip(layers, downs, ups, starts, starts[len(layers) :], strict=False):
        (rank, width), scale = down.shape, float(layer.scaling[ADAPTER])
        yield name.removeprefix(PREFIX), _Place(layer, rank, width, up.shape[0], scale, a, b)


def _scaled(flat: Tensor, places: Iterable[_Place]) -> Iterator[tuple[Tensor, float]]:
    """What stands in `flat` of neighbouring B that have one scale, and the scale."""
    for scale, group in groupby(places, key=lambda place: place.scale):
        alike = list(group)
        last = alike[-1]
        yield flat[alike[0].b : last.b + last.rank * last.rows], scale


def _views(flat: Tensor, place: _Place) -> tuple[Tensor, Tensor]:
    """A [rank, in] and B transposed [rank, out]."""
    a = flat[place.a : place.a + place.rank * place.width].view(place.rank, place.width)
    return a, flat[place.b : place.b + place.rank * place.rows].view(place.rank, place.rows)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
