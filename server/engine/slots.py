"""Adapters on the device as sequences see them: which digest stands in which slot, and who holds it.

Slot 0 is the base: always resident, nothing to hold.
"""

from server.engine.device_memory import DeviceMemory, HostMemory
from server.engine.host_cache import HostCache
from server.engine.occupants import Occupants
from server.engine.supply import Supply
from server.model.adapter import AdapterBlob

BASE_SLOT = 0


class AdapterSlots:
    def __init__(self, num_slots: int, host: HostCache, memory: DeviceMemory | None = None) -> None:
        """`num_slots` adapters beside the base, as far as the memory has room for them."""
        self.num_slots = num_slots
        self.host = host
        self._memory = memory or HostMemory()
        self._occupants = Occupants(num_slots)
        self.supply = Supply(self._occupants, host, self._memory)

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

    def acquire(self, digest: str) -> int | None:
        """Takes hold of the adapter's slot; None while it is not there yet. Raises AdapterUnavailable."""
        if not digest:
            return BASE_SLOT
        if digest not in self._occupants and self.supply.require(digest) is not None:
            self.supply.bring(digest)
        occupant = self._occupants.get(digest)
        if occupant is None or not occupant.placed.is_resident():
            return None
        self._occupants.hold(occupant)
        return occupant.slot

    def release(self, digest: str) -> None:
        if digest and (occupant := self._occupants.release(digest)) is not None:
            self._memory.leave(occupant.placed)
            self.supply.look_again()

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

    def close(self) -> None:
        """Loads that have not begun never will."""
        self.host.close()

    def __contains__(self, digest: str) -> bool:
        """Whether it is on the device or on its way from host memory."""
        return digest in self._occupants

    def resident(self) -> list[str]:
        return [o.digest for o in self._occupants if o.placed.is_resident()]

    def is_resident(self, digest: str) -> bool:
        """Whether a sequence of this adapter could start now; the base always could."""
        return not digest or self._occupants.is_resident(digest)

    def held(self) -> list[str]:
        return [o.digest for o in self._occupants if o.holds]

    def check(self, holds: dict[str, int]) -> None:
        """The books balance: every hold belongs to a running sequence, every slot to one adapter."""
        self._occupants.check(holds)
        self._memory.check([occupant.placed for occupant in self._occupants])
