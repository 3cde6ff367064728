"""Who must leave the device so that another adapter finds room: decisions only, nothing is moved here."""

from collections.abc import Container, Sequence
from dataclasses import dataclass, field

from server.engine.device_memory import DeviceMemory
from server.engine.occupants import Occupant
from server.model.adapter import AdapterBlob


@dataclass(frozen=True)
class Room:
    """The device as it is now. occupants: least recently used first. kept: digests that stay."""

    memory: DeviceMemory
    occupants: Sequence[Occupant]
    has_free_slot: bool
    kept: Container[str]

    def idle(self) -> list[Occupant]:
        """Who may go at once."""
        return [o for o in self.occupants if o.digest not in self.kept and _is_idle(o)]

    def suffices(self, blob: AdapterBlob, going: Sequence[Occupant]) -> bool:
        """Whether it finds room once those are gone."""
        placed = [occupant.placed for occupant in going]
        return (self.has_free_slot or bool(going)) and self.memory.fits(blob, placed)

    def victims(self, blob: AdapterBlob, pinned: Container[str]) -> list[Occupant]:
        """The least busy ones whose end makes room for it, and not one too many; none if nothing would."""
        idle = self.idle()
        others = [o for o in self.occupants if o not in idle and o.digest not in pinned]
        chosen: list[Occupant] = []
        for occupant in sorted(others, key=lambda o: o.holds):
            if self.suffices(blob, idle + chosen):
                break
            chosen.append(occupant)
        if not self.suffices(blob, idle + chosen):
            return []
        for occupant in sorted(chosen, key=lambda o: -o.holds):
            rest = [each for each in chosen if each is not occupant]
            if self.suffices(blob, idle + rest):
                chosen = rest
        return chosen


@dataclass
class Claim:
    """The promise of the next room, which one adapter has at a time; digest: empty for none.

    closed: adapters that take in nobody until it is kept.
    """

    digest: str = ""
    closed: set[str] = field(default_factory=set)

    def end(self) -> None:
        """It is kept, or nobody waits for it any more."""
        self.digest, self.closed = "", set()

    def renew(self, room: Room, blob: AdapterBlob, pinned: Container[str]) -> None:
        """Others are closed only if those that are do not suffice: what is begun is brought to its end."""
        closed = [o for o in room.occupants if o.digest in self.closed and o.digest not in pinned]
        if not room.suffices(blob, [*room.idle(), *(o for o in closed if o not in room.idle())]):
            closed = room.victims(blob, pinned)
        self.closed = {occupant.digest for occupant in closed}


def _is_idle(occupant: Occupant) -> bool:
    return not occupant.holds and occupant.placed.is_resident()
