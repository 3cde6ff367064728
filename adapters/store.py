"""The adapters a server keeps on a local disk.

    <root>/blobs/<ab>/<digest>/     the adapter's two files and its manifest, immutable
    <root>/names/<key>/<n>.json     version n of a name is which digest
    <root>/staging, <root>/trash    uploads on their way in and bytes on their way out; emptied at start
    <root>/lock                     held by the one process that uses the root

A commit syncs the files, moves the folder into blobs in one step, syncs, links the version record, syncs, and
only then returns: a kill at any instant leaves the version complete or absent.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
import uuid
import weakref
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

from adapters import records
from adapters.blobs import MANIFEST_NAME, Blobs, empty
from adapters.durable import make_folder, storage_errors, sync_folder, write_file
from adapters.errors import AdapterNotFound, StoreUnavailable, UploadRejected
from adapters.index import Index
from adapters.manifest import FileSpec, Manifest, content_digest
from adapters.names import Reference, check_name, check_tenant, parse_reference
from adapters.paging import decode_token, encode_token
from adapters.records import Record
from adapters.staging import Staging, check_declaration

MAX_PAGE_SIZE = 1000
_CACHED_MANIFESTS = 4096
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterVersion:
    """An adapter under a name; `created_at` in seconds since the epoch."""

    tenant: str
    name: str
    version: int
    digest: str
    created_at: float
    manifest: Manifest


# Inside the class, `list` is the method.
Versions = list[AdapterVersion]
Digests = list[str]


class LocalStore:
    """Thread-safe. One process per root; `close` (or the end of the process) lets the next one in.

    Every method raises StoreUnavailable when the disk fails, InvalidName for a malformed name or reference,
    and AdapterNotFound where it is asked for something that is not live.
    """

    def __init__(self, root: Path) -> None:
        self._names, self._staging, self._trash = root / "names", root / "staging", root / "trash"
        self._writing = Lock()
        with storage_errors(f"opening {root}"):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._unlock = weakref.finalize(self, os.close, _lock(root / "lock"))
            for folder in (root / "blobs", self._names, self._staging, self._trash):
                make_folder(folder)
            empty(self._staging)
            empty(self._trash)
            self._blobs = Blobs(root / "blobs", self._trash)
            self._index = Index(records.scan(self._names))
        self._manifest = lru_cache(_CACHED_MANIFESTS)(self._read_manifest)

    def close(self) -> None:
        """Lets another process use the root; the store must not be used afterwards."""
        self._unlock()

    def stage(self, files: Sequence[FileSpec], max_bytes: int) -> Staging:
        """Begins an upload; nothing is written for a declaration that breaks a limit.

        Raises UploadRejected or UploadTooLarge.
        """
        check_declaration(files, max_bytes)
        return Staging(self._staging / uuid.uuid4().hex, files)

    def commit(self, staging: Staging, tenant: str, name: str, manifest: Manifest) -> AdapterVersion:
        """Makes a sealed upload the newest version of a name; durable on return.

        The same content as the newest live version is no new version: that one is returned. The staging is
        used up either way. Raises UploadRejected if it is not sealed or the manifest describes other files.
        """
        check_tenant(tenant)
        check_name(name)
        if not staging.sealed or manifest.digest != content_digest(staging.files):
            raise UploadRejected("The checked files are not the uploaded ones; upload the adapter again.")
        with staging, storage_errors("committing an adapter"):
            write_file(staging.folder / MANIFEST_NAME, manifest.to_json().encode())
            sync_folder(staging.folder)
            with self._writing:
                return self._commit(staging.folder, tenant, name, manifest)

    def resolve(self, tenant: str, reference: str | Reference) -> AdapterVersion:
        """The version a reference means: the one it gives, else the newest live one."""
        return self._version(self._find(tenant, reference)[-1])

    def get(self, tenant: str, name: str, version: int) -> AdapterVersion:
        """Exactly this version."""
        return self.resolve(tenant, Reference(name, version))

    def list(self, tenant: str, page_size: int = 100, page_token: str = "") -> tuple[Versions, str]:
        """Live versions by name, then version, and the token of the next page ("" after the last).

        At most 1000 per page. A version whose stored bytes are damaged is left out and logged.
        """
        check_tenant(tenant)
        page_size = min(max(page_size, 1), MAX_PAGE_SIZE)
        found = self._index.after(tenant, *decode_token(page_token), page_size + 1)
        page = found[:page_size]
        next_token = encode_token(page[-1].name, page[-1].version) if len(found) > page_size else ""
        return self._readable(page), next_token

    def delete(self, tenant: str, reference: str | Reference) -> Versions:
        """Retires the version a reference gives, or every version of the name; returns them, oldest first.

        The bytes stay until `collect`; the version numbers are never used again.
        """
        with self._writing, storage_errors("deleting an adapter"):
            found = self._find(tenant, reference)
            for record in found:
                records.retire(self._names, record)
                self._index.remove(record)
            sync_folder(self._names / records.record_key(tenant, found[0].name))
        return self._readable(found)

    def folder(self, digest: str) -> Path:
        """Where an adapter's files are, as long as a version names it or `collect` is told of a holder."""
        return self._blobs.folder(digest)

    def collect(self, held: Collection[str]) -> Digests:
        """Removes the bytes of adapters that no live version names and nobody holds: their digests."""
        with self._writing, storage_errors("removing deleted adapters"):
            keep = self._index.digests().union(held)
            gone = self._blobs.discard_unless(keep.__contains__)
        for path in gone.values():
            shutil.rmtree(path, ignore_errors=True)
        return list(gone)

    def _commit(self, staged: Path, tenant: str, name: str, manifest: Manifest) -> AdapterVersion:
        placed = self._blobs.place(staged, manifest)
        newest = self._index.matching(tenant, Reference(name))[-1:]
        if newest and newest[0].digest == manifest.digest:
            return _version(newest[0], manifest)
        record = Record(tenant, name, self._index.take_version(tenant, name), manifest.digest, time.time())
        try:
            records.publish(self._names, record)
        except BaseException:
            if placed and manifest.digest not in self._index.digests():
                with suppress(OSError):
                    shutil.rmtree(self._blobs.discard(manifest.digest), ignore_errors=True)
            raise
        self._index.add(record)
        return _version(record, manifest)

    def _find(self, tenant: str, reference: str | Reference) -> tuple[Record, ...]:
        check_tenant(tenant)
        wanted = parse_reference(str(reference))
        found = self._index.matching(tenant, wanted)
        if not found:
            raise AdapterNotFound(f"There is no adapter {wanted}; list the adapters to see what there is.")
        return found

    def _version(self, record: Record) -> AdapterVersion:
        return _version(record, self._manifest(record.digest))

    def _readable(self, found: Sequence[Record]) -> Versions:
        versions = []
        for record in found:
            try:
                versions.append(self._version(record))
            except StoreUnavailable as error:
                _log.error("version %d of %s/%s: %s", record.version, record.tenant, record.name, error)
        return versions

    def _read_manifest(self, digest: str) -> Manifest:
        try:
            return self._blobs.manifest(digest)
        except (OSError, ValueError) as error:
            raise StoreUnavailable(
                f"The stored adapter {digest[:12]} is damaged; upload it again."
            ) from error


def _version(record: Record, manifest: Manifest) -> AdapterVersion:
    return AdapterVersion(
        record.tenant, record.name, record.version, record.digest, record.created_at, manifest
    )


def _lock(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StoreUnavailable(
            f"Another server uses {path.parent}; stop it or choose another folder."
        ) from error
    except BaseException:
        os.close(fd)
        raise
    return fd
