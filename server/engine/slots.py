"""Adapters on the device: which digest stands in which slot, and who holds it.

    wanted -> reading (host) -> copying -> RESIDENT <-> held
                                              |
                          evicted when its slot or its room is needed, never while held

Slot 0 is the base: always resident, nothing to hold.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass
from itertools import count

from adapters.errors import InvalidAdapter
from server.engine.device_memory import DeviceMemory, HostMemory, Placed
from server.engine.host_cache import HostCache
from server.model.adapter import AdapterBlob

BASE_SLOT = 0

log = logging.getLogger(__name__)


class AdapterUnavailable(Exception):
    """The adapter's weights could not be brought to the device; the message says why."""


@dataclass
class Occupant:
    """What stands in a slot. `awaited`: brought for a sequence that has not taken hold of it yet.

    generation: of this bringing; no two have the same, so a slot taken anew is told from the old one.
    """

    digest: str
    slot: int
    placed: Placed
    generation: int
    holds: int = 0
    awaited: bool = True


class AdapterSlots:
    def __init__(self, num_slots: int, host: HostCache, memory: DeviceMemory | None = None) -> None:
        """`num_slots` adapters beside the base, as far as the memory has room for them."""
        self.num_slots = num_slots
        self.num_loads = 0
        self.num_evictions = 0
        self._host = host
        self._memory = memory or HostMemory()
        self._free = list(range(num_slots, 0, -1))
        self._generations = count(1)
        # Least recently used first.
        self._occupants: OrderedDict[str, Occupant] = OrderedDict()

    @property
    def load_seconds(self) -> float:
        """Spent reading adapters, over all loads."""
        return self._host.read_seconds

    @property
    def num_bytes(self) -> int:
        """Of device memory for adapters; 0 where there is no such thing."""
        return self._memory.capacity() or 0

    @property
    def num_bytes_free(self) -> int:
        return self._memory.free() or 0

    def prefetch(self, digest: str) -> None:
        """Begins to read an adapter that a sequence will want."""
        if digest and digest not in self._occupants:
            self._host.prefetch(digest)

    def acquire(self, digest: str) -> int | None:
        """Takes hold of the adapter's slot; None while it is not there yet. Raises AdapterUnavailable."""
        if not digest:
            return BASE_SLOT
        occupant = self._occupants.get(digest) or self._bring(digest)
        if occupant is None or not occupant.placed.is_resident():
            return None
        occupant.holds += 1
        occupant.awaited = False
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
        assert occupant.holds > 0 and occupant.placed.landed is None, "an adapter is used without being held"
        return occupant.placed.blob

    def slot_of(self, digest: str) -> int | None:
        """Where a held adapter stands; None if it does not."""
        if not digest:
            return BASE_SLOT
        occupant = self._occupants.get(digest)
        return occupant.slot if occupant is not None and occupant.holds else None

    def generation_of(self, digest: str) -> int | None:
        """Of the slot in which a held adapter stands; 0 is the base's; None if nobody holds it."""
        if not digest:
            return 0
        occupant = self._occupants.get(digest)
        return occupant.generation if occupant is not None and occupant.holds else None

    def poll(self) -> None:
        """Takes in what the readers have brought since the last turn."""
        self._host.settle()

    def close(self) -> None:
        """Loads that have not begun never will."""
        self._host.close()

    def blocker(self, digest: str) -> str | None:
        """The adapter whose end another needs that is read and has no room: the least recently used one."""
        blob = self._host.get(digest) if digest in self._host else None
        if blob is None or digest in self._occupants or self._has_room(blob):
            return None
        return next((o.digest for o in self._occupants.values() if o.holds), None)

    def resident(self) -> list[str]:
        return [o.digest for o in self._occupants.values() if o.placed.is_resident()]

    def held(self) -> list[str]:
        return [o.digest for o in self._occupants.values() if o.holds]

    def check(self, holds: dict[str, int]) -> None:
        """The books balance: every hold belongs to a running sequence, every slot to one adapter."""
        assert {o.digest: o.holds for o in self._occupants.values() if o.holds} == holds, "holds differ"
        taken = [o.slot for o in self._occupants.values()]
        assert sorted(taken + self._free) == list(range(1, self.num_slots + 1)), "a slot is lost or shared"
        self._memory.check([o.placed for o in self._occupants.values()])

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
        if blob is None:
            return None
        self._require_fit(blob)
        if not self._has_room(blob):
            return None
        generation = next(self._generations)
        while True:
            placed = self._memory.place(self._free[-1], blob, generation) if self._free else None
            if placed is not None:
                break
            if not self._evict():
                return None
        self.num_loads += 1
        self._occupants[digest] = Occupant(digest, self._free.pop(), placed, generation)
        return self._occupants[digest]

    def _require_fit(self, blob: AdapterBlob) -> None:
        capacity = self._memory.capacity()
        if capacity is not None and blob.num_bytes > capacity:
            raise AdapterUnavailable(
                f"its {blob.num_bytes} bytes do not fit the {capacity} bytes for adapters on the device;"
                " start the server with more --adapter-memory"
            )

    def _has_room(self, blob: AdapterBlob) -> bool:
        """Whether there is room if all go that may; nobody is evicted in vain."""
        idle = self._evictable()
        return bool(self._free or idle) and self._memory.fits(blob, [o.placed for o in idle])

    def _evictable(self) -> list[Occupant]:
        """First those that nobody waits for."""
        idle = [o for o in self._occupants.values() if not o.holds and o.placed.is_resident()]
        return sorted(idle, key=lambda occupant: occupant.awaited)

    def _evict(self) -> bool:
        """Makes the least recently used adapter go that may."""
        for occupant in self._evictable():
            del self._occupants[occupant.digest]
            self._free.append(occupant.slot)
            self._memory.remove(occupant.placed)
            self.num_evictions += 1
            return True
        return False
