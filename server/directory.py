"""The front's view of the adapters: the store off the event loop, and who holds which version.

A hold is taken between two looks at the store. The second one saw the version alive; whatever is collected
later is asked for its holders at the moment it is removed.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

from adapters.errors import AdapterNotFound, StoreUnavailable
from adapters.grants import Grant, Grants
from adapters.store import AdapterVersion, Store
from server.errors import NoSuchAdapter
from server.holds import Holds
from server.news import News
from server.workers import run

log = logging.getLogger(__name__)
T = TypeVar("T")


class Directory:
    """Adapters by tenant and reference. All methods belong to the event loop's thread."""

    def __init__(self, store: Store, grants: Grants, news: News) -> None:
        self.store = store
        self._grants = grants
        # Told of holds by version, of uploads by theirs, of tiers by digest, and of all else without a topic.
        self.news = news
        self.holds = Holds(news)
        # Digests that stay on this machine while nobody runs on them.
        self.pinned: frozenset[str] = frozenset()
        # Apart, because fetching or removing large files must not keep requests from finding their adapters.
        self._lookups = ThreadPoolExecutor(2, "lookup")
        self._changes = ThreadPoolExecutor(4, "change")
        self._fetches = ThreadPoolExecutor(4, "fetch")
        self._janitor = ThreadPoolExecutor(1, "janitor")

    @asynccontextmanager
    async def hold(self, tenant: str, reference: str, session: str = "") -> AsyncIterator[AdapterVersion]:
        """The version a reference means, on this machine until the block ends. Raises NoSuchAdapter.

        Where an alias points at several, requests of one session get the same one.
        """
        key = f"session {session}" if session else secrets.token_hex(8)
        version = await self.resolve(tenant, reference, key)
        try:
            with self.holds.hold(version):
                if not self.store.is_live(version):
                    raise NoSuchAdapter(reference, f"The adapter {reference} has just been deleted.")
                await self.fetch(version.digest)
                yield version
        finally:
            # The last holder of a deleted version has it removed; `collect` asks for the others.
            if not self.store.is_wanted(version.digest):
                self.collect()

    async def resolve(self, tenant: str, reference: str, key: str | None = None) -> AdapterVersion:
        """The version a reference means, not held. Raises NoSuchAdapter, or InvalidName for several."""
        with finding(reference):
            owner, own = self._grants.locate(tenant, reference)
            return await run(self._lookups, lambda: self.store.resolve(owner, own, key))

    async def list(
        self, tenant: str, page_size: int, page_token: str
    ) -> tuple[Sequence[AdapterVersion], str]:
        return await run(self._lookups, lambda: self.store.list(tenant, page_size, page_token))

    async def share(self, owner: str, name: str, tenant: str) -> Grant:
        """Lets another tenant use one of the owner's names. Raises NoSuchAdapter."""
        await self.resolve(owner, name)
        return await run(self._changes, lambda: self._grants.share(owner, name, tenant))

    async def unshare(self, owner: str, name: str, tenant: str) -> None:
        await run(self._changes, lambda: self._grants.unshare(owner, name, tenant))

    def grants_of(self, tenant: str) -> Sequence[Grant]:
        """All that a tenant gave or was given."""
        return self._grants.of(tenant)

    async def look(self, work: Callable[[], T]) -> T:
        """Something that is read of the store."""
        return await run(self._lookups, work)

    async def change(self, work: Callable[[], T]) -> T:
        """Something that is changed in the store."""
        done = await run(self._changes, work)
        self.news.tell()
        return done

    async def fetch(self, digest: str) -> None:
        """Brings an adapter's files to this machine; they stay while it is held or pinned."""
        if self.store.is_shared:
            await run(self._fetches, lambda: self.folder(digest))

    def folder(self, digest: str) -> Path:
        """Of an adapter's files on this machine. Fetches them if they are not here."""
        return self.store.folder(digest, self.is_held)

    async def delete(self, tenant: str, reference: str, force: bool = False) -> Sequence[AdapterVersion]:
        """Retires versions. Bytes that nobody holds go now, the others with their last holder.

        By force, holders end at once and aliases lose the versions. Raises NoSuchAdapter or VersionInUse.
        """
        with finding(reference):
            versions = await self.change(lambda: self.store.delete(tenant, reference, force))
        self._end_forced()
        self.collect()
        return versions

    async def drain(self, versions: Sequence[AdapterVersion], seconds: float) -> int:
        """How many requests run on these versions, once there are none or after so many seconds."""
        if seconds > 0:
            await self.holds.wait_idle(versions, seconds)
        return self.holds.running(versions)

    def is_held(self, digest: str) -> bool:
        """Whether the adapter is needed on this machine; any thread may ask."""
        return self.holds.has(digest) or digest in self.pinned

    def collect(self) -> None:
        """Has the bytes removed that no version names and nobody holds; does not wait for it."""
        self._janitor.submit(lambda: self.store.collect(self.holds.has)).add_done_callback(_log_failure)

    async def keep_fresh(self, seconds: float) -> None:
        """Takes in what other servers change, drops old uploads and collects, every so many seconds."""
        while True:
            await asyncio.sleep(seconds)
            try:
                if await run(self._changes, self._tidy):
                    self.news.tell()
                self._end_forced()
            except StoreUnavailable as error:
                log.warning("refreshing the store: %s", error)

    def close(self) -> None:
        """Waits for what runs and gives the store back."""
        for pool in (self._lookups, self._changes, self._fetches, self._janitor):
            pool.shutdown()
        self.store.close()

    def _end_forced(self) -> None:
        """Ends who runs on what was deleted by force, here or at another server."""
        self.holds.revoke_where(self.store.was_forced_out)

    def _tidy(self) -> bool:
        expired = self.store.uploads.expire()
        if not self.store.is_shared:
            return expired
        changed = self.store.refresh()
        self.store.collect(self.is_held)
        return changed or expired


def name_for(tenant: str, version: AdapterVersion) -> str:
    """What a tenant calls it: `name`, or `owner/name` where it is another's."""
    return version.name if version.tenant == tenant else f"{version.tenant}/{version.name}"


def _log_failure(done: "Future[list[str]]") -> None:
    error = done.exception()
    if isinstance(error, StoreUnavailable):
        log.warning("collecting deleted adapters: %s", error)
    elif error is not None:
        log.error("collecting deleted adapters", exc_info=error)


@contextmanager
def finding(reference: str) -> Iterator[None]:
    """Says which reference was not found."""
    try:
        yield
    except AdapterNotFound as error:
        # Of another tenant's adapters nobody learns more than the reference that was asked for.
        sentence = f"There is no adapter {reference}." if "/" in reference else str(error)
        raise NoSuchAdapter(reference, sentence) from error
