"""Where an engine's adapters are, put together from its reports, and which of that a tenant may know.

The engine knows digests only, and tenants who upload the same bytes share one adapter in memory. What one of
them does must not show in what another is told: each sees an adapter where its own use has brought it, for
as long as that alone would have kept it there.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count

from server.engine.messages import DEVICE, HOST, Moved, Refused
from server.news import News

# No tenant's: when an adapter came.
_ARRIVAL = ""


class Tier:
    """The digests in one tier of memory, and when each tenant used them.

    Who was used longest ago leaves first. So whoever has used an adapter later than any that has left would
    find it here if nobody else had used it.
    """

    def __init__(self) -> None:
        self._uses: dict[str, dict[str, int]] = {}
        self._clock = count(1)
        # The last use of what has left, the latest of all.
        self._left = 0

    def __contains__(self, digest: str) -> bool:
        return digest in self._uses

    def __iter__(self) -> Iterator[str]:
        return iter(self._uses)

    def __len__(self) -> int:
        return len(self._uses)

    def move(self, digest: str, is_in: bool) -> bool:
        """It is here from now on, or not; whether that is new."""
        if is_in == (digest in self):
            return False
        if is_in:
            self.use(_ARRIVAL, digest)
        else:
            self._left = max(self._left, *self._uses.pop(digest).values())
        return True

    def use(self, tenant: str, digest: str) -> None:
        self._uses.setdefault(digest, {})[tenant] = next(self._clock)

    def is_seen(self, tenant: str, digest: str) -> bool:
        return self._uses.get(digest, {}).get(tenant, 0) > self._left


class Places:
    """Belongs to one event loop. `news` is told by digest of who comes to a tier, and whenever one leaves."""

    def __init__(self, news: News) -> None:
        self._news = news
        # Sequences that have begun to answer and run: (tenant, digest) -> how many.
        self._running: Counter[tuple[str, str]] = Counter()
        self.clear()

    def clear(self) -> None:
        """Another engine, which has nothing anywhere yet."""
        self.resident, self.on_host = Tier(), Tier()
        self.awaited: set[str] = set()
        # Of adapters that were warmed or pinned, and cannot be.
        self.refusals: list[Refused] = []

    def take(self, moved: Sequence[Moved], refusals: list[Refused] | None = None) -> None:
        """Changes as the engine tells them; refusals None: as before."""
        has_moved = [each for each in moved if self._move(each)]
        if refusals is not None:
            self.refusals = refusals
        topics = [each.digest for each in has_moved] + [each.digest for each in refusals or ()]
        if any(not (each.on_host and each.on_device) for each in has_moved):
            # It may have left; what a tenant may know of other adapters depends on that too.
            self._news.tell()
        elif topics:
            self._news.tell(*topics)

    def begin(self, tenant: str, digest: str, has_loaded: bool) -> None:
        """A sequence of the tenant has its first token; has_loaded: it had to wait for its adapter."""
        self._running[tenant, digest] += 1
        self._use(tenant, digest, has_loaded)

    def end(self, tenant: str, digest: str) -> None:
        """That sequence has ended."""
        self._running[tenant, digest] -= 1
        if not self._running[tenant, digest]:
            del self._running[tenant, digest]
        self._use(tenant, digest, has_loaded=False)

    def warmed(self, tenant: str, digest: str, tier: str, has_loaded: bool) -> None:
        """The tenant has had it brought there; has_loaded: from below the device."""
        if tier == DEVICE:
            self._use(tenant, digest, has_loaded)
        elif digest in self.on_host:
            self.on_host.use(tenant, digest)
            self._news.tell(digest)

    def seen(self, tenant: str, digest: str, pinned: str = "") -> str:
        """The highest tier in which the tenant may know the adapter to be: DEVICE, HOST or "".

        pinned: where an operator's word keeps it, for all to see who see the version.
        """
        runs = self._running[tenant, digest] > 0 or pinned == DEVICE
        if digest in self.resident and (runs or self.resident.is_seen(tenant, digest)):
            return DEVICE
        is_kept = pinned == HOST and digest in self.on_host
        return HOST if is_kept or self.on_host.is_seen(tenant, digest) else ""

    def _use(self, tenant: str, digest: str, has_loaded: bool) -> None:
        """On the device, which its own copy in host memory only feels when it is loaded from there."""
        before = self.seen(tenant, digest)
        if digest in self.resident:
            self.resident.use(tenant, digest)
        if has_loaded and digest in self.on_host:
            self.on_host.use(tenant, digest)
        if self.seen(tenant, digest) != before:
            self._news.tell(digest)

    def _move(self, moved: Moved) -> bool:
        """Whether it is in another tier than before."""
        if moved.is_awaited:
            self.awaited.add(moved.digest)
        else:
            self.awaited.discard(moved.digest)
        has_come = self.on_host.move(moved.digest, moved.on_host)
        return self.resident.move(moved.digest, moved.on_device) or has_come


class Use:
    """One sequence's of its adapter, from its first token to the end of the `with` block."""

    def __init__(self, places: Places, tenant: str, digest: str) -> None:
        self._places = places
        self._whose = tenant, digest
        self._has_begun = False

    def begin(self, has_loaded: bool) -> None:
        self._has_begun = True
        self._places.begin(*self._whose, has_loaded)

    def __enter__(self) -> "Use":
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_begun:
            self._places.end(*self._whose)
