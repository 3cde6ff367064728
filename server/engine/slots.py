"""Adapters on the device: which digest stands in which slot, and who holds it.

    wanted -> reading (host) -> copying -> RESIDENT <-> held
                                              |
                                     evicted when its slot is needed, never while held

Slot 0 is the base: always resident, nothing to hold.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch

from adapters.errors import InvalidAdapter
from server.engine.host_cache import HostCache
from server.model.adapter import AdapterBlob

BASE_SLOT = 0

log = logging.getLogger(__name__)


class AdapterUnavailable(Exception):
    """The adapter's weights could not be brought to the device; the message says why."""


@dataclass
class Occupant:
    """What stands in a slot. `landed` is None once the copy is done."""

    digest: str
    slot: int
    blob: AdapterBlob
    landed: "torch.cuda.Event | None"
    holds: int = 0

    def is_resident(self) -> bool:
        if self.landed is not None and self.landed.query():
            self.landed = None
        return self.landed is None


class AdapterSlots:
    def __init__(self, num_slots: int, host: HostCache, device: torch.device) -> None:
        """`num_slots` adapters beside the base."""
        self.num_slots = num_slots
        self.num_loads = 0
        self.num_evictions = 0
        self._host = host
        self._copy = _copier(device)
        self._free = list(range(num_slots, 0, -1))
        # Least recently used first.
        self._occupants: OrderedDict[str, Occupant] = OrderedDict()

    @property
    def load_seconds(self) -> float:
        """Spent reading adapters, over all loads."""
        return self._host.read_seconds

    def prefetch(self, digest: str) -> None:
        """Begins to read an adapter that a sequence will want."""
        if digest and digest not in self._occupants:
            self._host.prefetch(digest)

    def acquire(self, digest: str) -> int | None:
        """Takes hold of the adapter's slot; None while it is not there yet. Raises AdapterUnavailable."""
        if not digest:
            return BASE_SLOT
        occupant = self._occupants.get(digest) or self._bring(digest)
        if occupant is None or not occupant.is_resident():
            return None
        occupant.holds += 1
        self._occupants.move_to_end(digest)
        return occupant.slot

    def release(self, digest: str) -> None:
        if digest:
            occupant = self._occupants[digest]
            assert occupant.holds > 0, "an adapter was released more often than held"
            occupant.holds -= 1

    def blob(self, digest: str) -> AdapterBlob:
        """A held adapter's weights on the device."""
        occupant = self._occupants[digest]
        assert occupant.holds > 0 and occupant.landed is None, "an adapter is used without being held"
        return occupant.blob

    def poll(self) -> None:
        """Takes in what the readers have brought since the last turn."""
        self._host.settle()

    def close(self) -> None:
        """Loads that have not begun never will."""
        self._host.close()

    def blocker(self, digest: str) -> str | None:
        """The adapter whose end another needs that is read and has no slot: the least recently used one."""
        if digest not in self._host or digest in self._occupants or self._free:
            return None
        if any(not occupant.holds for occupant in self._occupants.values()):
            return None
        return next(iter(self._occupants))

    def resident(self) -> list[str]:
        return [o.digest for o in self._occupants.values() if o.is_resident()]

    def held(self) -> list[str]:
        return [o.digest for o in self._occupants.values() if o.holds]

    def check(self, holds: dict[str, int]) -> None:
        """The books balance: every hold belongs to a running sequence, every slot to one adapter."""
        assert {o.digest: o.holds for o in self._occupants.values() if o.holds} == holds, "holds differ"
        taken = [o.slot for o in self._occupants.values()]
        assert sorted(taken + self._free) == list(range(1, self.num_slots + 1)), "a slot is lost or shared"

    def _bring(self, digest: str) -> Occupant | None:
        """Load, check, then evict: a failed load costs nobody their slot."""
        try:
            blob = self._host.get(digest)
        except InvalidAdapter as error:
            raise AdapterUnavailable(str(error)) from error
        except Exception as error:
            # What the system says of its paths is for the log.
            log.exception("adapter %s cannot be read", digest)
            raise AdapterUnavailable("its files cannot be read from the store") from error
        slot = self._take_slot() if blob is not None else None
        if blob is None or slot is None:
            return None
        try:
            on_device, landed = self._copy(blob)
        except torch.OutOfMemoryError as error:
            self._free.append(slot)
            raise AdapterUnavailable("the device has no memory left for it; try again later") from error
        self.num_loads += 1
        self._occupants[digest] = Occupant(digest, slot, on_device, landed)
        return self._occupants[digest]

    def _take_slot(self) -> int | None:
        if self._free:
            return self._free.pop()
        for occupant in self._occupants.values():
            if not occupant.holds and occupant.is_resident():
                del self._occupants[occupant.digest]
                self.num_evictions += 1
                return occupant.slot
        return None


Copier = Callable[[AdapterBlob], "tuple[AdapterBlob, torch.cuda.Event | None]"]


def _copier(device: torch.device) -> Copier:
    """Copies a blob to the device, on a stream of its own where there is one."""
    if device.type != "cuda":
        return lambda blob: (blob.to(device), None)
    stream = torch.cuda.Stream(device)

    def copy(blob: AdapterBlob) -> "tuple[AdapterBlob, torch.cuda.Event | None]":
        with torch.cuda.stream(stream):
            on_device = blob.to(device)
            landed = torch.cuda.Event()
            landed.record(stream)
        on_device.flat.record_stream(torch.cuda.current_stream(device))
        return on_device, landed

    return copy
