"""A linear of the base with what the adapters of a step do to it."""

from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from server.kernels.adjust import RowChanges, adjust, scale_inputs
from server.kernels.lora import (
    AdapterMemory,
    LoraPack,
    Part,
    Segment,
    SlotBatch,
    Update,
    lora_add,
    row_mask,
)
from server.model.layers import Linear
from server.model.packs import Packs


class Adjusted(Protocol):
    """A linear whose output, or input, some adapters scale or shift besides."""

    def apply(self, linear: Linear, x: Tensor, update: Update | None) -> Tensor:
        """x [tokens, in] -> [tokens, out]; x may be overwritten where the linear has one part."""


@dataclass(frozen=True)
class LoraStep:
    """The adapters of one step: its tokens are sorted by slot, so each adapter's stand together."""

    packs: Packs
    segments: list[Segment]
    # Most linears share their bounds, so one mask serves them all.
    _masks: dict[tuple[int, ...], Tensor | None] = field(default_factory=dict)

    def located(self) -> "LoraStep":
        return self

    def of(self, layer: int, linear: str, parts: tuple[Part, ...]) -> Update | None:
        """What the adapters add to one linear of one layer."""
        pack = self.packs.lora[layer].get(linear)
        return None if pack is None else PackUpdate(self, pack)

    def adjusted(self, layer: int, linear: str, parts: tuple[Part, ...]) -> Adjusted | None:
        """What they do to it besides; None: nothing."""
        changes = self.packs.changes.get((layer, linear))
        if changes is None:
            return None
        members = [RowChanges(s, changes[s.index]) for s in self.segments if s.index in changes]
        return TorchAdjusted(members, len(parts) > 1) if members else None

    def mask(self, bounds: tuple[int, ...], x: Tensor) -> Tensor | None:
        if bounds not in self._masks:
            self._masks[bounds] = row_mask(x.shape[0], bounds, self.segments, x.device)
        return self._masks[bounds]


@dataclass(frozen=True)
class PackUpdate:
    """The update of a step's packs to one linear."""

    lora: LoraStep
    pack: LoraPack

    def add(self, y: Tensor, x: Tensor) -> None:
        lora_add(y, x, self.pack, self.lora.segments, self.lora.mask(self.pack.bounds, x))


@dataclass(frozen=True)
class TorchAdjusted:
    """Adapter by adapter. is_fused: the linear is several of the checkpoint's."""

    members: list[RowChanges]
    is_fused: bool

    def apply(self, linear: Linear, x: Tensor, update: Update | None) -> Tensor:
        if not self.is_fused:
            scale_inputs(x, self.members)
        y = linear(x, update)
        if self.is_fused:
            split_inputs(y, x, linear, self.members)
        adjust(y, self.members)
        return y


@dataclass(frozen=True)
class SlotLora:
    """The same for the device's kernels, which find an adapter by its slot.

    adjusts: whether any adapter has vectors. split: where linears that are one need inputs of their own, by
    (layer, linear); such steps are no graphs.
    """

    memory: AdapterMemory
    batch: SlotBatch
    adjusts: bool = False
    split: dict[tuple[int, str], list[RowChanges]] = field(default_factory=dict)

    def located(self) -> "SlotLora":
        """With every token's adapter looked up: once a step, and not once a linear."""
        return replace(self, batch=self.batch.located(self.memory))

    def of(self, layer: int, linear: str, parts: tuple[Part, ...]) -> Update | None:
        from server.kernels.slot_update import SlotUpdate

        return SlotUpdate(self.memory, self.batch, layer, parts)

    def adjusted(self, layer: int, linear: str, parts: tuple[Part, ...]) -> Adjusted | None:
        return SlotAdjusted(self, layer, linear, parts) if self.adjusts else None


@dataclass(frozen=True)
class SlotAdjusted:
    """All adapters at once, by each row's slot."""

    lora: SlotLora
    layer: int
    linear: str
    parts: tuple[Part, ...]

    def apply(self, linear: Linear, x: Tensor, update: Update | None) -> Tensor:
        from server.kernels import adjust_triton

        memory, batch = self.lora.memory, self.lora.batch
        if len(self.parts) == 1:
            adjust_triton.scale_input(x, memory, batch, self.layer, self.parts[0])
        y = linear(x, update)
        split_inputs(y, x, linear, self.lora.split.get((self.layer, self.linear), []))
        adjust_triton.adjust(y, memory, batch, self.layer, self.parts)
        return y


Lora = LoraStep | SlotLora


def split_inputs(y: Tensor, x: Tensor, linear: Linear, members: list[RowChanges]) -> None:
    """Computes y's columns anew whose part has an input of its own: W (input_gain * x), and no update."""
    for member in members:
        start, end = member.segment.start, member.segment.end
        for change in member.changes:
            if change.input_gain is not None:
                columns = slice(change.part.column, change.part.column + change.part.width)
                scaled = (x[start:end].float() * change.input_gain).to(x.dtype)
                y[start:end, columns] = linear(scaled)[:, columns]
