"""Uploads from their first message to a stored version, or to a reason why not."""

import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from adapters.declaration import Declaration
from adapters.errors import (
    AdapterError,
    InvalidAdapter,
    StoreUnavailable,
    UploadIncomplete,
    UploadRejected,
    UploadTaken,
)
from adapters.manifest import BaseShapes, FileSpec, Manifest
from adapters.sandbox import Sandbox
from adapters.staging import Staging
from adapters.store import AdapterVersion
from server.directory import Directory
from server.errors import InvalidRequest
from server.link import EngineLink, require_ready
from server.texts import Texts
from server.workers import run, together

MAX_OUTCOMES = 1000
T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What became of an upload whose bytes are all here: under check, refused for reasons, or a version."""

    reasons: Sequence[str] = ()
    version: AdapterVersion | None = None


@dataclass(frozen=True)
class Chunk:
    """Bytes of one file, where they start in it."""

    file: str
    offset: int
    data: bytes


class Uploading:
    """Belongs to the event loop's thread; files are written and checked on threads of its own."""

    def __init__(
        self, directory: Directory, link: EngineLink, texts: Texts, max_rank: int, max_bytes: int
    ) -> None:
        self._directory = directory
        self._uploads = directory.store.uploads
        self._link = link
        self._texts = texts
        self._max_rank = max_rank
        self._max_bytes = max_bytes
        self._pool = ThreadPoolExecutor(4, "upload")
        # Apart, because a check takes as long as hundreds of writes.
        self._checks = ThreadPoolExecutor(2, "check")
        self._sandbox = Sandbox()
        # (tenant, upload id) -> what became of it, the newest ones.
        self._outcomes: OrderedDict[tuple[str, str], Outcome] = OrderedDict()

    async def receive(
        self,
        declaration: Declaration,
        begun: Callable[[], Awaitable[None]],
        chunks: Callable[[], AsyncIterator[Chunk]],
    ) -> AdapterVersion:
        """Writes what comes and stores it. A stream that breaks leaves an upload that can be gone on with."""
        staging, writer = await run(
            self._pool, lambda: self._directory.store.begin(declaration, self._max_bytes)
        )
        self._outcomes.pop(_key(declaration), None)
        # Others may have made way for it.
        self._directory.news.tell()
        try:
            await begun()
            async for chunk in chunks():
                await self._write(staging, writer, chunk)
            return await self._store(staging, writer)
        except (UploadTaken, UploadIncomplete):
            raise
        except (AdapterError, InvalidRequest) as error:
            await self._give_up(staging, error)
            raise
        finally:
            await run(self._pool, lambda: staging.suspend(writer))
            self._forget_check(declaration)
            self._directory.news.tell(_key(declaration))

    async def find(self, tenant: str, upload_id: str) -> Staging:
        """An unfinished upload. Raises UploadNotFound."""
        return await self._directory.look(lambda: self._uploads.get(tenant, upload_id))

    def expires_at(self, staging: Staging) -> float:
        return self._uploads.expires_at(staging)

    def outcome(self, tenant: str, upload_id: str) -> Outcome | None:
        """What became of an upload; None while its bytes come, or if nothing is known of it."""
        return self._outcomes.get((tenant, upload_id))

    def close(self) -> None:
        for pool in (self._pool, self._checks):
            pool.shutdown()
        self._sandbox.close()

    async def _write(self, staging: Staging, writer: int, chunk: Chunk) -> None:
        await run(self._pool, lambda: staging.write(chunk.file, chunk.offset, chunk.data, writer))
        self._directory.news.tell(_key(staging.declaration))

    async def _store(self, staging: Staging, writer: int) -> AdapterVersion:
        """Verifies, makes ready and commits. Raises NotReady while there is no engine."""
        shapes = require_ready(self._link).shapes
        declaration = staging.declaration
        await run(self._pool, lambda: staging.verify(writer))
        self._note(declaration, Outcome())
        # Nothing is visible before both are done, and neither needs the other.
        synced = run(self._pool, staging.sync)
        manifest = await together(self._make_ready(staging, shapes), synced)
        store = self._directory.store
        version = await run(
            self._pool, lambda: store.commit(staging, declaration.tenant, declaration.name, manifest)
        )
        await run(self._pool, lambda: self._uploads.end(staging))
        self._note(declaration, Outcome(version=version))
        return version

    async def _make_ready(self, staging: Staging, shapes: BaseShapes) -> Manifest:
        """Checked first, so that nothing else opens what no server should."""
        checked = await run(self._checks, lambda: self._check(staging, shapes))
        await self._texts.check(staging.folder, checked)
        return await self._link.prepare(staging.folder, checked)

    def _check(self, staging: Staging, shapes: BaseShapes) -> Manifest:
        """Of what was verified, whose hashes are known."""
        allows = staging.declaration.allow_base_mismatch
        return self._sandbox.inspect(staging.folder, shapes, self._max_rank, allows, staging.files)

    async def _give_up(self, staging: Staging, error: Exception) -> None:
        """What was refused is gone; where the storage failed, a blob may wait to be collected."""
        await run(self._pool, lambda: self._uploads.end(staging))
        if isinstance(error, StoreUnavailable):
            self._directory.collect()
        reasons = error.problems if isinstance(error, InvalidAdapter) else (str(error),)
        self._note(staging.declaration, Outcome(reasons=tuple(reasons)))

    def _forget_check(self, declaration: Declaration) -> None:
        """A check that was broken off is begun again by whoever goes on with the upload."""
        if self._outcomes.get(_key(declaration)) == Outcome():
            del self._outcomes[_key(declaration)]

    def _note(self, declaration: Declaration, outcome: Outcome) -> None:
        self._outcomes[_key(declaration)] = outcome
        self._outcomes.move_to_end(_key(declaration))
        if len(self._outcomes) > MAX_OUTCOMES:
            self._outcomes.popitem(last=False)
        self._directory.news.tell(_key(declaration))


def declare(
    tenant: str, name: str, upload_id: str, files: Sequence[FileSpec], allow_base_mismatch: bool = False
) -> Declaration:
    """A declaration of now, its files in order."""
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        raise UploadRejected("The upload declares a file twice; declare each once.")
    in_order = tuple(sorted(files, key=lambda file: file.name))
    return Declaration(tenant, name, upload_id, in_order, time.time(), allow_base_mismatch)


def _key(declaration: Declaration) -> tuple[str, str]:
    return declaration.tenant, declaration.upload_id
