"""Where adapters stand on the device.

On the CPU that is where they stand already. On a CUDA device it is a tensor of a fixed size, made at start:
an adapter's bytes go there in one copy beside the running step, and its rows of `places` after them.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch

from server.engine.arena import Extents
from server.engine.copy_lane import CopyLane, Inline, Mark
from server.kernels.lora import AdapterMemory
from server.model.adapter import ALIGNMENT, AdapterBlob
from server.model.config import ModelConfig

# A slot's rows of AdapterMemory.places and .extras.
Tables = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Placed:
    """An adapter on the device, in a slot's generation. `landed` is None once its copy is done."""

    blob: AdapterBlob
    num_bytes: int
    slot: int = 0
    generation: int = 0
    landed: Mark | None = None
    # (start, length) of what it takes of the arena, in units of ALIGNMENT elements.
    extents: tuple[tuple[int, int], ...] = ()
    # The end of the last step that may read it, once nobody holds it.
    left: Mark | None = field(default=None, compare=False)

    def is_resident(self) -> bool:
        if self.landed is not None and self.landed.query():
            self.landed = None
        return self.landed is None

    def meets(self, other: "Placed") -> bool:
        """Whether both have stood in one place."""
        return self.slot == other.slot or any(
            start < begin + size and begin < start + length
            for start, length in self.extents
            for begin, size in other.extents
        )


class DeviceMemory(Protocol):
    def capacity(self) -> int | None:
        """Bytes of adapters it holds; None: no limit but the slots."""

    def free(self) -> int | None:
        """Bytes of the capacity that nothing takes."""

    def fits(self, blob: AdapterBlob, without: list[Placed]) -> bool:
        """Whether it could be placed if those were removed."""

    def place(self, slot: int, blob: AdapterBlob, generation: int = 0) -> Placed | None:
        """Begins to copy; None if there is no room."""

    def leave(self, placed: Placed) -> None:
        """Its last holder is gone; the step under way may still read it."""

    def remove(self, placed: Placed) -> None:
        """Its room may be taken again."""

    def check(self, placed: list[Placed]) -> None:
        """The books balance."""


class HostMemory:
    """The CPU's: adapters are used where the host cache has put them."""

    def capacity(self) -> int | None:
        return None

    def free(self) -> int | None:
        return None

    def fits(self, blob: AdapterBlob, without: list[Placed]) -> bool:
        return True

    def place(self, slot: int, blob: AdapterBlob, generation: int = 0) -> Placed | None:
        return Placed(blob, blob.num_bytes, slot, generation)

    def leave(self, placed: Placed) -> None:
        return

    def remove(self, placed: Placed) -> None:
        return

    def check(self, placed: list[Placed]) -> None:
        return


class Arena:
    """A CUDA device's. `memory` is what the kernels see of it."""

    def __init__(
        self,
        num_bytes: int,
        num_slots: int,
        config: ModelConfig,
        max_rank: int,
        like: torch.Tensor,
        lane: CopyLane | None = None,
    ) -> None:
        self._unit = ALIGNMENT * like.element_size()
        self._extents = Extents(num_bytes // self._unit)
        self._num_layers = config.num_layers
        places = torch.zeros(num_slots + 1, config.num_layers, 7, 4, dtype=torch.int32, device=like.device)
        weights, extras = like.new_zeros(self._extents.size * ALIGNMENT), torch.full_like(places, -1)
        self.memory = AdapterMemory(weights, places, max_rank, extras)
        self._lane = lane or Inline()
        if (zeroed := self._lane.mark()) is not None:
            # No copy comes before the first values.
            self._lane.copy(lambda: None, [zeroed])
        # Removed while the step under way may still read them.
        self._leaving: list[Placed] = []

    def capacity(self) -> int | None:
        return self._extents.size * self._unit

    def free(self) -> int | None:
        return self._extents.num_free * self._unit

    def fits(self, blob: AdapterBlob, without: list[Placed]) -> bool:
        extents = self._extents.copy()
        for start, length in (extent for placed in without for extent in placed.extents):
            extents.give_back(start, length)
        return extents.take(_lengths(blob)) is not None

    def place(self, slot: int, blob: AdapterBlob, generation: int = 0) -> Placed | None:
        lengths = _lengths(blob)
        starts = self._extents.take(lengths)
        if starts is None:
            return None
        moved = blob.moved(self.memory.weights, [start * ALIGNMENT for start in starts])
        extents = tuple(zip(starts, lengths, strict=True))
        placed = Placed(moved, blob.num_bytes, slot, generation, extents=extents)
        self._copy(blob, placed)
        return placed

    def leave(self, placed: Placed) -> None:
        placed.left = self._lane.mark()

    def remove(self, placed: Placed) -> None:
        for start, length in placed.extents:
            self._extents.give_back(start, length)
        if placed.left is not None:
            self._leaving.append(placed)

    def check(self, placed: list[Placed]) -> None:
        self._extents.check([extent for each in placed for extent in each.extents])
        held = self.memory.places[:, 0, 0, 3].tolist()
        wrong = [p.slot for p in placed if p.is_resident() and held[p.slot] != p.generation]
        assert not wrong, f"slots {wrong} hold other generations on the device than in the books"

    def _copy(self, blob: AdapterBlob, placed: Placed) -> None:
        self._leaving = [old for old in self._leaving if old.left is not None and not old.left.query()]
        after = [old.left for old in self._leaving if old.left is not None and old.meets(placed)]
        tables = placed.blob.places(self._num_layers), placed.blob.extras(self._num_layers)
        tables[0][0, 0, 3] = placed.generation
        placed.landed = self._lane.copy(lambda: self._write(blob, tables, placed), after)

    def _write(self, blob: AdapterBlob, tables: Tables, placed: Placed) -> None:
        """One copy for each stretch: one altogether, unless the memory is in pieces."""
        at = 0
        for start, length in _stretches(placed.extents):
            target = self.memory.weights[start * ALIGNMENT : (start + length) * ALIGNMENT]
            target.copy_(blob.flat[at : at + length * ALIGNMENT], non_blocking=True)
            at += length * ALIGNMENT
        assert self.memory.extras is not None
        for rows, values in zip((self.memory.places, self.memory.extras), tables, strict=True):
            row = values.pin_memory() if rows.is_cuda else values
            rows[placed.slot].copy_(row, non_blocking=True)


def _lengths(blob: AdapterBlob) -> list[int]:
    """Of its layers, in units of ALIGNMENT elements."""
    return [(layer.stop - layer.start) // ALIGNMENT for layer in blob.layers()]


def _stretches(extents: tuple[tuple[int, int], ...]) -> list[tuple[int, int]]:
    """Neighbours as one."""
    stretches: list[tuple[int, int]] = []
    for start, length in extents:
        if stretches and sum(stretches[-1]) == start:
            stretches[-1] = (stretches[-1][0], stretches[-1][1] + length)
        else:
            stretches.append((start, length))
    return stretches
