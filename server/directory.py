"""The front's view of the adapters: the store off the event loop, and who holds which digest.

A hold is taken between two looks at the store. The second one saw the version alive, and since only the
janitor's single thread deletes and collects, whatever it collects later it collects knowing of the hold.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

from adapters.errors import AdapterNotFound, StoreUnavailable
from adapters.manifest import FileSpec
from adapters.sandbox import inspect_in_sandbox
from adapters.staging import Staging
from adapters.store import AdapterVersion, LocalStore
from server.errors import NoSuchAdapter
from server.link import EngineLink, require_ready
from server.texts import Texts

log = logging.getLogger(__name__)
T = TypeVar("T")


class Directory:
    """Adapters by tenant and reference. All methods belong to the event loop's thread."""

    def __init__(
        self, store: LocalStore, link: EngineLink, texts: Texts, max_rank: int, max_bytes: int
    ) -> None:
        self._store = store
        self._link = link
        self._texts = texts
        self._max_rank = max_rank
        self._max_bytes = max_bytes
        self._holds: Counter[str] = Counter()
        # Deleted while somebody held them.
        self._doomed: set[str] = set()
        # Apart, because a check of large files must not keep requests from finding their adapters.
        self._lookups = ThreadPoolExecutor(2, "lookup")
        self._uploads = ThreadPoolExecutor(4, "upload")
        self._janitor = ThreadPoolExecutor(1, "janitor")

    @asynccontextmanager
    async def hold(self, tenant: str, reference: str) -> AsyncIterator[AdapterVersion]:
        """The version a reference means, whose bytes stay until the block ends. Raises NoSuchAdapter."""
        version = await self.resolve(tenant, reference)
        self._holds[version.digest] += 1
        try:
            with _finding(reference):
                self._store.get(tenant, version.name, version.version)
            yield version
        finally:
            self._release(version.digest)

    async def resolve(self, tenant: str, reference: str) -> AdapterVersion:
        """The version a reference means, not held. Raises NoSuchAdapter."""
        with _finding(reference):
            return await _run(self._lookups, lambda: self._store.resolve(tenant, reference))

    async def list(
        self, tenant: str, page_size: int, page_token: str
    ) -> tuple[Sequence[AdapterVersion], str]:
        return await _run(self._lookups, lambda: self._store.list(tenant, page_size, page_token))

    async def delete(self, tenant: str, reference: str) -> Sequence[AdapterVersion]:
        """Retires versions; bytes that nobody holds go now, the others with their last holder."""
        with _finding(reference):
            versions = await _run(self._janitor, lambda: self._store.delete(tenant, reference))
        digests = {version.digest for version in versions}
        self._doomed |= {digest for digest in digests if digest in self._holds}
        if not digests <= self._doomed:
            self.collect()
        return versions

    @asynccontextmanager
    async def staging(self, files: Sequence[FileSpec]) -> AsyncIterator[Staging]:
        """A place for an upload, gone when the block ends."""
        # A list, because a caller who hangs up meanwhile gets no result but leaves a folder.
        opened: list[Staging] = []
        try:
            await _run(self._uploads, lambda: opened.append(self._store.stage(files, self._max_bytes)))
            yield opened[0]
        finally:
            for staging in opened:
                # Shielded, for callers who hang up once more.
                await asyncio.shield(_run(self._uploads, staging.discard))

    async def write(self, staging: Staging, file: str, offset: int, data: bytes) -> None:
        await _run(self._uploads, lambda: staging.write(file, offset, data))

    async def commit(self, staging: Staging, tenant: str, name: str) -> AdapterVersion:
        """Seals, checks, prepares and stores a complete upload. Raises NotReady while there is no engine."""
        shapes = require_ready(self._link).shapes
        await _run(self._uploads, staging.seal)
        check = inspect_in_sandbox
        checked = await _run(self._uploads, lambda: check(staging.folder, shapes, self._max_rank))
        await self._texts.check(staging.folder, checked)
        manifest = await self._link.prepare(staging.folder, checked)
        return await _run(self._uploads, lambda: self._store.commit(staging, tenant, name, manifest))

    def collect(self) -> None:
        """Has the bytes removed that no version names and nobody holds; does not wait for it."""
        self._janitor.submit(lambda: self._store.collect(list(self._holds))).add_done_callback(_log_failure)

    def close(self) -> None:
        """Waits for what runs and gives the store back."""
        for pool in (self._lookups, self._uploads, self._janitor):
            pool.shutdown()
        self._store.close()

    def _release(self, digest: str) -> None:
        self._holds[digest] -= 1
        if self._holds[digest]:
            return
        del self._holds[digest]
        if digest in self._doomed:
            self._doomed.discard(digest)
            self.collect()


async def _run(pool: Executor, work: Callable[[], T]) -> T:
    """Runs to its end even if the caller is cancelled: a staging belongs to one thread at a time."""
    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def _log_failure(done: "Future[list[str]]") -> None:
    error = done.exception()
    if isinstance(error, StoreUnavailable):
        log.warning("collecting deleted adapters: %s", error)
    elif error is not None:
        log.error("collecting deleted adapters", exc_info=error)


@contextmanager
def _finding(reference: str) -> Iterator[None]:
    """Says which reference was not found."""
    try:
        yield
    except AdapterNotFound as error:
        raise NoSuchAdapter(reference, str(error)) from error
