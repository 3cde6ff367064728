"""Where adapters stand on the device.

On the CPU that is where they stand already. On a CUDA device it is a tensor of a fixed size, made at start:
an adapter's bytes go there in one copy beside the running step, and its rows of `places` after them.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from server.engine.arena import Extents
from server.kernels.lora import AdapterMemory
from server.model.adapter import ALIGNMENT, AdapterBlob
from server.model.config import ModelConfig


@dataclass
class Placed:
    """An adapter on the device, in a slot's generation. `landed` is None once its copy is done."""

    blob: AdapterBlob
    num_bytes: int
    slot: int = 0
    generation: int = 0
    landed: "torch.cuda.Event | None" = None
    # (start, length) of what it takes of the arena, in units of ALIGNMENT elements.
    extents: tuple[tuple[int, int], ...] = ()

    def is_resident(self) -> bool:
        if self.landed is not None and self.landed.query():
            self.landed = None
        return self.landed is None


class DeviceMemory(Protocol):
    def capacity(self) -> int | None:
        """Bytes of adapters it holds; None: no limit but the slots."""

    def free(self) -> int | None:
        """Bytes of the capacity that nothing takes."""

    def fits(self, blob: AdapterBlob, without: list[Placed]) -> bool:
        """Whether it could be placed if those were removed."""

    def place(self, slot: int, blob: AdapterBlob, generation: int = 0) -> Placed | None:
        """Begins to copy; None if there is no room."""

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

    def remove(self, placed: Placed) -> None:
        return

    def check(self, placed: list[Placed]) -> None:
        return


class Arena:
    """A CUDA device's. `memory` is what the kernels see of it."""

    def __init__(
        self, num_bytes: int, num_slots: int, config: ModelConfig, max_rank: int, like: torch.Tensor
    ) -> None:
        self._unit = ALIGNMENT * like.element_size()
        self._extents = Extents(num_bytes // self._unit)
        self._num_layers = config.num_layers
        places = torch.zeros(num_slots + 1, config.num_layers, 7, 4, dtype=torch.int32, device=like.device)
        self.memory = AdapterMemory(like.new_zeros(self._extents.size * ALIGNMENT), places, max_rank)
        self._stream = torch.cuda.Stream(like.device) if like.is_cuda else None

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
        places = moved.places(self._num_layers)
        places[0, 0, 3] = generation
        landed = self._copy(slot, blob, places, extents)
        return Placed(moved, blob.num_bytes, slot, generation, landed, extents)

    def remove(self, placed: Placed) -> None:
        for start, length in placed.extents:
            self._extents.give_back(start, length)

    def check(self, placed: list[Placed]) -> None:
        self._extents.check([extent for each in placed for extent in each.extents])
        held = self.memory.places[:, 0, 0, 3].tolist()
        wrong = [p.slot for p in placed if p.is_resident() and held[p.slot] != p.generation]
        assert not wrong, f"slots {wrong} hold other generations on the device than in the books"

    def _copy(
        self, slot: int, blob: AdapterBlob, places: torch.Tensor, extents: tuple[tuple[int, int], ...]
    ) -> "torch.cuda.Event | None":
        if self._stream is None:
            self._write(slot, blob, places, extents)
            return None
        # What stood here before may still be read by the step under way.
        self._stream.wait_stream(torch.cuda.current_stream(self.memory.weights.device))
        with torch.cuda.stream(self._stream):
            self._write(slot, blob, places.pin_memory(), extents)
            landed = torch.cuda.Event()
            landed.record(self._stream)
        return landed

    def _write(
        self, slot: int, blob: AdapterBlob, places: torch.Tensor, extents: tuple[tuple[int, int], ...]
    ) -> None:
        """One copy for each stretch: one altogether, unless the memory is in pieces."""
        at = 0
        for start, length in _stretches(extents):
            target = self.memory.weights[start * ALIGNMENT : (start + length) * ALIGNMENT]
            target.copy_(blob.flat[at : at + length * ALIGNMENT], non_blocking=True)
            at += length * ALIGNMENT
        self.memory.places[slot].copy_(places, non_blocking=True)


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
