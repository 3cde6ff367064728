"""What the operator wants in a tier of memory: brought there once (warmed), or for good (pinned)."""

from server.engine.messages import DEVICE, HOST, Pin, Refused, Unpin, Warm
from server.engine.slots import AdapterSlots
from server.engine.supply import AdapterUnavailable

# The older ones are forgotten.
MOST_REFUSALS = 32


class Pins:
    """Takes commands at any time, and carries them out as room comes; nobody else is stopped for it."""

    def __init__(self, slots: AdapterSlots) -> None:
        self._slots = slots
        # digest -> tier: pinned there, and on the way there.
        self._pinned: dict[str, str] = {}
        self._coming: dict[str, str] = {}
        # The newest last.
        self._refused: dict[str, Refused] = {}
        self._has_changed = False

    def give(self, command: Warm | Pin | Unpin) -> None:
        self._has_changed |= self._refused.pop(command.digest, None) is not None
        if isinstance(command, Warm):
            # A pinned one comes to its tier anyway, and may be warmed above it.
            self._coming[command.digest] = command.tier
        elif isinstance(command, Pin):
            self._unpin(command.digest)
            self._coming[command.digest] = self._pinned[command.digest] = command.tier
        else:
            self._unpin(command.digest)
        self._wish()

    def advance(self) -> None:
        """One turn."""
        for digest, tier in list(self._coming.items()):
            try:
                if self._bring(digest, tier):
                    del self._coming[digest]
                    self._wish()
            except AdapterUnavailable as error:
                self._unpin(digest)
                self._refuse(Refused(digest, str(error)))
                self._wish()

    def digests(self) -> list[str]:
        """Pinned, or about to be."""
        return sorted(self._pinned)

    def refusals(self) -> list[Refused]:
        return list(self._refused.values())

    def take_refusals(self) -> list[Refused] | None:
        """All that stand, if they are others than at the last call."""
        has_changed, self._has_changed = self._has_changed, False
        return self.refusals() if has_changed else None

    def _refuse(self, refusal: Refused) -> None:
        self._has_changed = True
        self._refused[refusal.digest] = refusal
        if len(self._refused) > MOST_REFUSALS:
            del self._refused[next(iter(self._refused))]

    def _bring(self, digest: str, tier: str) -> bool:
        """Whether it has come to the tier. Raises AdapterUnavailable if it cannot."""
        if tier not in (HOST, DEVICE):
            raise AdapterUnavailable(f"{tier!r} is no tier; name {HOST} or {DEVICE}")
        is_pin = self._pinned.get(digest) == tier
        return self._to_device(digest, is_pin) if tier == DEVICE else self._to_host(digest, is_pin)

    def _to_host(self, digest: str, is_pin: bool) -> bool:
        blob = self._slots.supply.require(digest)
        if blob is None or not is_pin:
            return blob is not None
        if blob.num_bytes > (free := self._slots.host.unpinned_bytes):
            raise AdapterUnavailable(
                f"its {blob.num_bytes} bytes do not fit the {free} bytes of host memory that are not pinned;"
                " unpin another, or start the server with more --host-cache-bytes"
            )
        return self._slots.host.pin(digest)

    def _to_device(self, digest: str, is_pin: bool) -> bool:
        slots = self._slots
        if digest not in slots:
            blob = slots.supply.require(digest)
            if blob is None:
                return False
            if is_pin and not slots.supply.could_fit(blob):
                raise AdapterUnavailable(
                    "pinned adapters leave no slot or no room for it on the device; unpin another, or start"
                    " the server with more --adapter-slots or --adapter-memory"
                )
            if not slots.supply.bring(digest):
                if is_pin:
                    slots.supply.claim(digest)
                return False
        if is_pin:
            slots.supply.pinned.add(digest)
        return True

    def _unpin(self, digest: str) -> None:
        self._pinned.pop(digest, None)
        self._coming.pop(digest, None)
        self._slots.supply.unpin(digest)
        self._slots.host.unpin(digest)

    def _wish(self) -> None:
        """What is to come is read, after what sequences wait for."""
        supply, coming = self._slots.supply, self._coming.items()
        supply.wished = {d for d, tier in coming if tier == HOST or d not in self._slots}
        supply.ask()
