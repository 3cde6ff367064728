"""What a sequence's wait for its adapter took, and when it is owed the next room on the device."""

from collections.abc import Callable

from server.engine.sequence import Sequence
from server.engine.slots import AdapterSlots


class AdapterWait:
    """drain_after: seconds that a sequence waits for room alone before others must make it."""

    def __init__(self, slots: AdapterSlots, drain_after: float, clock: Callable[[], float]) -> None:
        self._slots = slots
        self._drain_after = drain_after
        self._clock = clock

    def acquire(self, sequence: Sequence) -> int | None:
        """Takes hold of the slot of the sequence's adapter; None while it is not on the device.

        Raises AdapterUnavailable if it will never be.
        """
        slot = self._slots.acquire(sequence.request.adapter)
        now = self._clock()
        if slot is None:
            self._go_on(sequence, now)
        elif sequence.load_asked_at is not None:
            sequence.load_seconds += now - sequence.load_asked_at
            sequence.load_asked_at = sequence.blocked_at = None
        return slot

    def _go_on(self, sequence: Sequence, now: float) -> None:
        if sequence.load_asked_at is None:
            sequence.load_asked_at = now
        if self._slots.supply.lacks_room(adapter := sequence.request.adapter):
            if sequence.blocked_at is None:
                sequence.blocked_at = now
            if now - sequence.blocked_at >= self._drain_after:
                self._slots.supply.claim(adapter)
