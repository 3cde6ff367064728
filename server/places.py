"""Where an engine's adapters are, put together from what its reports say of changes."""

from collections.abc import Sequence

from server.engine.messages import Moved, Refused


class Places:
    """Digests on the device, in host memory, and waited for; all empty while an engine has said nothing."""

    def __init__(self) -> None:
        self.resident: set[str] = set()
        self.on_host: set[str] = set()
        self.awaited: set[str] = set()
        # Of adapters that were warmed or pinned, and cannot be.
        self.refusals: list[Refused] = []

    def take(self, moved: Sequence[Moved], refusals: list[Refused] | None = None) -> bool:
        """Whether an adapter came to a tier, left one, or is refused there; refusals None: as before."""
        has_changed = [self._move(each) for each in moved]
        if refusals is not None:
            self.refusals = refusals
        return any(has_changed) or refusals is not None

    def _move(self, moved: Moved) -> bool:
        """Whether it is in another tier than before."""
        digest = moved.digest
        before = digest in self.on_host, digest in self.resident
        _set(self.on_host, digest, moved.on_host)
        _set(self.resident, digest, moved.on_device)
        _set(self.awaited, digest, moved.is_awaited)
        return before != (moved.on_host, moved.on_device)


def _set(digests: set[str], digest: str, is_in: bool) -> None:
    if is_in:
        digests.add(digest)
    else:
        digests.discard(digest)
