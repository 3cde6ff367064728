"""Who runs on which version. What is held keeps its bytes; who holds what is deleted by force is ended."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from adapters.store import AdapterVersion
from server.errors import AdapterDeleted
from server.news import News
from server.revocable import Revocable

Key = tuple[str, str, int]


class Holds:
    """Belongs to the event loop, but for `has`, which any thread may ask."""

    def __init__(self, news: News) -> None:
        self._news = news
        self._held: dict[Key, set[Revocable]] = {}
        self._digests: Counter[str] = Counter()

    @contextmanager
    def hold(self, version: AdapterVersion) -> Iterator[None]:
        """The version's bytes stay until the block ends. Raises AdapterDeleted from it if it is revoked."""
        hold = Revocable()
        self._held.setdefault(key_of(version), set()).add(hold)
        self._digests[version.digest] += 1
        self._news.tell(key_of(version))
        try:
            yield
        except asyncio.CancelledError:
            if hold.is_only_reason():
                raise AdapterDeleted(
                    f"The adapter {version.name}@{version.version} was deleted by force while it answered."
                ) from None
            raise
        finally:
            self._release(version, hold)

    def has(self, digest: str) -> bool:
        """Whether somebody holds the adapter, under whatever name."""
        return self._digests[digest] > 0

    def running(self, versions: Sequence[AdapterVersion]) -> int:
        """Requests that hold one of these versions."""
        return sum(len(self._held.get(key_of(version), ())) for version in versions)

    def revoke_where(self, is_gone: Callable[[str, str, int], bool]) -> None:
        """Ends the requests that hold a version (tenant, name, number) of which this is so."""
        for key in [key for key in self._held if is_gone(*key)]:
            for hold in self._held[key]:
                hold.revoke()

    async def wait_idle(self, versions: Sequence[AdapterVersion], seconds: float) -> None:
        """Returns once nobody holds these versions, or after so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for _ in self._news.looks(*map(key_of, versions)):
                    if not self.running(versions):
                        return

    def _release(self, version: AdapterVersion, hold: Revocable) -> None:
        holds = self._held[key_of(version)]
        holds.discard(hold)
        if not holds:
            del self._held[key_of(version)]
        self._digests[version.digest] -= 1
        if not self._digests[version.digest]:
            del self._digests[version.digest]
        self._news.tell(key_of(version))


def key_of(version: AdapterVersion) -> Key:
    """What the news of its holders are told under."""
    return version.tenant, version.name, version.version
