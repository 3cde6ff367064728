"""Adapters on the device: which digest stands in which slot, and who holds it.

    wanted -> reading (host) -> copying -> RESIDENT <-> held
                                              |
          evicted when its slot or its room is needed; never while it is held or pinned, or while a
          sequence waits to take hold of it

Slot 0 is the base: always resident, nothing to hold.
"""

import logging
import math
from collections.abc import Iterable

from adapters.errors import InvalidAdapter
from server.engine.device_memory import DeviceMemory, HostMemory
from server.engine.host_cache import HostCache
from server.engine.messages import Moved
from server.engine.occupants import Occupant, Occupants
from server.engine.room import Claim, Room
from server.model.adapter import AdapterBlob

BASE_SLOT = 0

log = logging.getLogger(__name__)


class AdapterUnavailable(Exception):
    """The adapter's weights could not be brought to the device; the message says why."""


class AdapterSlots:
    def __init__(self, num_slots: int, host: HostCache, memory: DeviceMemory | None = None) -> None:
        """`num_slots` adapters beside the base, as far as the memory has room for them."""
        self.num_slots = num_slots
        self.num_loads = self.num_evictions = 0
        self.host = host
        # Those that stay on the device, and those to be read though no sequence waits for them.
        self.pinned: set[str] = set()
        self.wished: set[str] = set()
        self._memory = memory or HostMemory()
        self._occupants = Occupants(num_slots)
        # Digests that sequences wait for, in the order in which they will run.
        self._awaited: dict[str, None] = {}
        # Whose copies are under way.
        self._landing: list[Occupant] = []
        self._claim = Claim()
        # The smallest that found no room since the last change.
        self._too_large: float = math.inf
        # Who came, went, or is awaited otherwise, since somebody asked.
        self._moved: set[str] = set()

    @property
    def num_held(self) -> int:
        return self._occupants.num_held

    @property
    def load_seconds(self) -> float:
        """Spent reading adapters, over all loads."""
        return self.host.read_seconds

    @property
    def num_bytes(self) -> int:
        """Of device memory for adapters; 0 where there is no such thing."""
        return self._memory.capacity() or 0

    @property
    def num_bytes_free(self) -> int:
        return self._memory.free() or 0

    def expect(self, awaited: Iterable[str]) -> None:
        """What sequences wait for, in the order in which they will run: reads begin in that order."""
        before, self._awaited = self._awaited, dict.fromkeys(digest for digest in awaited if digest)
        self._moved |= before.keys() ^ self._awaited.keys()
        if self._claim.digest not in self._awaited and self._claim.digest not in self.wished:
            self._claim.end()
        self.ask()

    def ask(self) -> None:
        """Has read who has a promise, what is expected, and what is wished for."""
        missing = [digest for digest in self._wanted() if digest not in self._occupants]
        self.host.ask([*missing, *self.wished])

    def bring_expected(self) -> None:
        """Copies begin for all that is read, as far as there is room, before anybody runs on it."""
        for digest in self._wanted():
            self.bring(digest)

    def _wanted(self) -> list[str]:
        """Who has a promise first, then what is expected."""
        return [*filter(None, (self._claim.digest,)), *self._awaited]

    def acquire(self, digest: str) -> int | None:
        """Takes hold of the adapter's slot; None while it is not there yet. Raises AdapterUnavailable."""
        if not digest:
            return BASE_SLOT
        if digest not in self._occupants and self.require(digest) is not None:
            self.bring(digest)
        occupant = self._occupants.get(digest)
        if occupant is None or not occupant.placed.is_resident():
            return None
        self._occupants.hold(occupant)
        return occupant.slot

    def release(self, digest: str) -> None:
        if digest and (occupant := self._occupants.release(digest)) is not None:
            self._memory.leave(occupant.placed)
            self._too_large = math.inf

    def blob(self, digest: str) -> AdapterBlob:
        """A held adapter's weights on the device."""
        occupant = self._occupants.held(digest)
        assert occupant is not None, "an adapter is used without being held"
        assert occupant.placed.landed is None, "an adapter is used before it is there"
        return occupant.placed.blob

    def slot_of(self, digest: str) -> int | None:
        """Where a held adapter stands; None if it does not."""
        if not digest:
            return BASE_SLOT
        occupant = self._occupants.held(digest)
        return None if occupant is None else occupant.slot

    def generation_of(self, digest: str) -> int | None:
        """Of the slot in which a held adapter stands; 0 is the base's; None if nobody holds it."""
        if not digest:
            return 0
        occupant = self._occupants.held(digest)
        return None if occupant is None else occupant.generation

    def poll(self) -> None:
        """Takes in what readers and copies have brought since the last turn."""
        for occupant in [each for each in self._landing if each.placed.is_resident()]:
            self._landing.remove(occupant)
            self._moved.add(occupant.digest)
            self.host.release(occupant.digest)
        self.host.settle()
        self._renew_claim()
        self._too_large = math.inf

    def close(self) -> None:
        """Loads that have not begun never will."""
        self.host.close()

    def claim(self, digest: str) -> None:
        """Promises the next room to an adapter that is read and finds none, if nobody else has the promise.

        Until it is kept no other is brought, and the least busy adapters whose end makes room take in
        nobody.
        """
        blob = self.host.find(digest)
        if not self._claim.digest and blob is not None and digest not in self._occupants:
            room = self._room()
            if not room.suffices(blob, room.idle()):
                self._claim.digest = digest
                self._renew_claim()
                # What is promised room has to stay in host memory for it.
                self.ask()

    def is_closed(self, digest: str) -> bool:
        """Whether the adapter takes in nobody now, because another waits for its room."""
        return digest in self._claim.closed

    def lacks_room(self, digest: str) -> bool:
        """Whether room is all that the adapter waits for."""
        return digest in self.host and digest not in self._occupants

    def could_fit(self, blob: AdapterBlob) -> bool:
        """Whether it finds room if all go that are not pinned."""
        room = self._room()
        return room.suffices(blob, [o for o in room.occupants if o.digest not in self.pinned])

    def __contains__(self, digest: str) -> bool:
        """Whether it is on the device or on its way from host memory."""
        return digest in self._occupants

    def take_moved(self) -> list[Moved]:
        """Of all that came, went, or are awaited otherwise since the last call: how they are now."""
        moved, self._moved = self._moved | self.host.take_moved(), set()
        return [Moved(d, d in self.host, self.is_resident(d), d in self._awaited) for d in moved]

    def resident(self) -> list[str]:
        return [o.digest for o in self._occupants if o.placed.is_resident()]

    def is_resident(self, digest: str) -> bool:
        """Whether a sequence of this adapter could start now; the base always could."""
        occupant = self._occupants.get(digest)
        return not digest or (occupant is not None and occupant.placed.is_resident())

    def held(self) -> list[str]:
        return [o.digest for o in self._occupants if o.holds]

    def check(self, holds: dict[str, int]) -> None:
        """The books balance: every hold belongs to a running sequence, every slot to one adapter."""
        self._occupants.check(holds)
        self._memory.check([occupant.placed for occupant in self._occupants])

    def require(self, digest: str) -> AdapterBlob | None:
        """What host memory has of it; None while it is read. Raises AdapterUnavailable."""
        try:
            blob = self.host.get(digest)
        except InvalidAdapter as error:
            raise AdapterUnavailable(str(error)) from error
        except Exception as error:
            # What the system says of its paths is for the log.
            log.exception("adapter %s cannot be read", digest)
            raise AdapterUnavailable("its files cannot be read from the store") from error
        capacity = self._memory.capacity()
        if blob is not None and capacity is not None and blob.num_bytes > capacity:
            raise AdapterUnavailable(
                f"its {blob.num_bytes} bytes do not fit the {capacity} bytes for adapters on the device;"
                " start the server with more --adapter-memory"
            )
        return blob

    def bring(self, digest: str) -> bool:
        """Begins to copy what is read, if there is room or will be at once; nobody is evicted in vain."""
        blob = None if digest in self._occupants else self.host.find(digest)
        if blob is None or self._claim.digest not in ("", digest) or blob.num_bytes >= self._too_large:
            return False
        room = self._room()
        if not room.suffices(blob, room.idle()):
            self._too_large = blob.num_bytes
            return False
        # Its bytes may have gone to make room for another's.
        if self.host.hold(digest) is None:
            return False
        self._place(digest, blob, room.idle())
        return True

    def _place(self, digest: str, blob: AdapterBlob, idle: list[Occupant]) -> None:
        generation, placed = self._occupants.next_generation(), None
        while placed is None:
            if self._occupants.free:
                placed = self._memory.place(self._occupants.free[-1], blob, generation)
            if placed is None:
                self._evict(idle.pop(0))
        occupant = self._occupants.seat(digest, placed, generation)
        if placed.is_resident():
            self._moved.add(digest)
            self.host.release(digest)
        else:
            self._landing.append(occupant)
        self.num_loads += 1
        if self._claim.digest == digest:
            self._claim.end()

    def _evict(self, occupant: Occupant) -> None:
        self._occupants.remove(occupant)
        self._memory.remove(occupant.placed)
        self._moved.add(occupant.digest)
        self.num_evictions += 1

    def _room(self) -> Room:
        kept = self.pinned.union(self._awaited.keys() - self._claim.closed)
        return Room(self._memory, list(self._occupants), bool(self._occupants.free), kept)

    def _renew_claim(self) -> None:
        if (blob := self.host.find(self._claim.digest)) is not None:
            self._claim.renew(self._room(), blob, self.pinned)
