"""What comes to the device next, and who goes for it.

wanted -> reading (host) -> copying -> RESIDENT -> evicted when its slot or its room is needed; never while
                                                   it is held or pinned, or while a sequence waits for it
"""

import logging
import math
from collections.abc import Iterable

from adapters.errors import InvalidAdapter
from server.engine.device_memory import DeviceMemory
from server.engine.host_cache import HostCache
from server.engine.messages import Moved
from server.engine.occupants import Occupant, Occupants
from server.engine.room import Claim, Room
from server.model.adapter import AdapterBlob

log = logging.getLogger(__name__)


class AdapterUnavailable(Exception):
    """The adapter's weights could not be brought to the device; the message says why."""


class Supply:
    def __init__(self, occupants: Occupants, host: HostCache, memory: DeviceMemory) -> None:
        self.num_loads = self.num_evictions = 0
        # Those that stay on the device, and those to be read though no sequence waits for them.
        self.pinned: set[str] = set()
        self.wished: set[str] = set()
        self._occupants = occupants
        self._host = host
        self._memory = memory
        # Digests that sequences wait for, in the order in which they will run.
        self._awaited: dict[str, None] = {}
        # Whose copies are under way.
        self._landing: list[Occupant] = []
        self._claim = Claim()
        # Since the last change: whether all that is read was tried, after how many reads, and the smallest
        # that found no room.
        self._is_settled = False
        self._num_read = 0
        self._too_large: float = math.inf
        # Who came, went, or is awaited otherwise, since somebody asked.
        self._moved: set[str] = set()

    def expect(self, awaited: Iterable[str]) -> None:
        """What sequences wait for, in the order in which they will run: reads begin in that order."""
        before, self._awaited = self._awaited, dict.fromkeys(digest for digest in awaited if digest)
        self._moved |= before.keys() ^ self._awaited.keys()
        if self._claim.digest not in self._awaited and self._claim.digest not in self.wished:
            self._claim.end()
        self.look_again()
        self.ask()

    def ask(self) -> None:
        """Has read who has a promise, what is expected, and what is wished for."""
        missing = [digest for digest in self._wanted() if digest not in self._occupants]
        self._host.ask([*missing, *self.wished])

    def bring_expected(self) -> None:
        """Copies begin for all that is read, as far as there is room, before anybody runs on it.

        Costs nothing where neither reads nor room have come since the last call.
        """
        if self._is_settled and self._num_read == self._host.num_read:
            return
        self._is_settled, self._num_read = True, self._host.num_read
        for digest in self._wanted():
            if digest in self._host:
                self.bring(digest)

    def look_again(self) -> None:
        """There may be room for what found none, or another one may be the next."""
        self._is_settled, self._too_large = False, math.inf

    def poll(self) -> None:
        """Takes in what readers and copies have brought since the last turn."""
        for occupant in [each for each in self._landing if each.placed.is_resident()]:
            self._landing.remove(occupant)
            self._moved.add(occupant.digest)
            self._host.release(occupant.digest)
            self.look_again()
        self._host.settle()
        self._renew_claim()

    def unpin(self, digest: str) -> None:
        """It may go; no error if it might before."""
        self.pinned.discard(digest)
        self.look_again()

    def claim(self, digest: str) -> None:
        """Promises the next room to an adapter that is read and finds none, if nobody else has the promise.

        Until it is kept no other is brought, and the least busy adapters whose end makes room take in
        nobody.
        """
        blob = self._host.find(digest)
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
        return digest in self._host and digest not in self._occupants

    def could_fit(self, blob: AdapterBlob) -> bool:
        """Whether it finds room if all go that are not pinned."""
        room = self._room()
        return room.suffices(blob, [o for o in room.occupants if o.digest not in self.pinned])

    def take_moved(self) -> list[Moved]:
        """Of all that came, went, or are awaited otherwise since the last call: how they are now."""
        moved, self._moved = self._moved | self._host.take_moved(), set()
        return [Moved(d, d in self._host, self._occupants.is_resident(d), d in self._awaited) for d in moved]

    def require(self, digest: str) -> AdapterBlob | None:
        """What host memory has of it; None while it is read. Raises AdapterUnavailable."""
        try:
            blob = self._host.get(digest)
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
        blob = None if digest in self._occupants else self._host.find(digest)
        if blob is None or self._claim.digest not in ("", digest) or blob.num_bytes >= self._too_large:
            return False
        room = self._room()
        if not room.suffices(blob, room.idle()):
            self._too_large = blob.num_bytes
            return False
        # Its bytes may have gone to make room for another's.
        if self._host.hold(digest) is None:
            return False
        self._place(digest, blob, room.idle())
        return True

    def _wanted(self) -> list[str]:
        """Who has a promise first, then what is expected."""
        return [*filter(None, (self._claim.digest,)), *self._awaited]

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
            self._host.release(digest)
        else:
            self._landing.append(occupant)
        self.num_loads += 1
        if self._claim.digest == digest:
            self._claim.end()
            self.look_again()

    def _evict(self, occupant: Occupant) -> None:
        self._occupants.remove(occupant)
        self._memory.remove(occupant.placed)
        self._moved.add(occupant.digest)
        self.num_evictions += 1

    def _room(self) -> Room:
        kept = self.pinned.union(self._awaited.keys() - self._claim.closed)
        return Room(self._memory, list(self._occupants), bool(self._occupants.free), kept)

    def _renew_claim(self) -> None:
        if (blob := self._host.find(self._claim.digest)) is not None:
            self._claim.renew(self._room(), blob, self.pinned)
            self.look_again()
