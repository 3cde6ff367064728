"""The books of the device's adapters: who stands in which slot, and how many hold it."""

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

from server.engine.device_memory import Placed


@dataclass
class Occupant:
    """What stands in a slot.

    generation: of this bringing; no two have the same, so a slot taken anew is told from the old one.
    """

    digest: str
    slot: int
    placed: Placed
    generation: int
    holds: int = 0


class Occupants:
    """Iterates over the least recently used first."""

    def __init__(self, num_slots: int) -> None:
        self.num_held = 0
        self.free = list(range(num_slots, 0, -1))
        self._num_slots = num_slots
        self._generations = count(1)
        self._by_digest: OrderedDict[str, Occupant] = OrderedDict()

    def __contains__(self, digest: str) -> bool:
        return digest in self._by_digest

    def __iter__(self) -> Iterator[Occupant]:
        return iter(self._by_digest.values())

    def get(self, digest: str) -> Occupant | None:
        return self._by_digest.get(digest)

    def is_resident(self, digest: str) -> bool:
        """Whether it is there, and its copy has ended."""
        occupant = self.get(digest)
        return occupant is not None and occupant.placed.is_resident()

    def held(self, digest: str) -> Occupant | None:
        """None if nobody holds it."""
        occupant = self.get(digest)
        return occupant if occupant is not None and occupant.holds else None

    def next_generation(self) -> int:
        return next(self._generations)

    def seat(self, digest: str, placed: Placed, generation: int) -> Occupant:
        """In the last of the free slots."""
        occupant = self._by_digest[digest] = Occupant(digest, self.free.pop(), placed, generation)
        return occupant

    def remove(self, occupant: Occupant) -> None:
        del self._by_digest[occupant.digest]
        self.free.append(occupant.slot)

    def hold(self, occupant: Occupant) -> None:
        self.num_held += not occupant.holds
        occupant.holds += 1
        self._by_digest.move_to_end(occupant.digest)

    def release(self, digest: str) -> Occupant | None:
        """The occupant if that was its last hold."""
        occupant = self._by_digest[digest]
        assert occupant.holds > 0, "an adapter was released more often than held"
        occupant.holds -= 1
        if occupant.holds:
            return None
        self.num_held -= 1
        self._by_digest.move_to_end(digest)
        return occupant

    def check(self, holds: dict[str, int]) -> None:
        """The books balance: holds are these, and every slot is free or one adapter's."""
        assert {o.digest: o.holds for o in self if o.holds} == holds, "holds differ"
        assert self.num_held == len(holds), "adapters that are held were counted wrong"
        slots = [*(occupant.slot for occupant in self), *self.free]
        assert sorted(slots) == list(range(1, self._num_slots + 1)), "a slot is lost or shared"
