"""The adapters a server keeps: immutable versions under names, their aliases and pins, and uploads.

A version is visible once its blob is stored whole and its name's document, by compare-and-set, names it.
Deleting changes the document first; the bytes go later, by `collect`. A kill at any instant leaves the
version complete or absent.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

from adapters.aliases import Aliases
from adapters.backend import Backend, IsHeld
from adapters.blobs import MANIFEST_NAME
from adapters.catalog import Catalog
from adapters.declaration import Declaration, check_files
from adapters.disk import DiskBackend
from adapters.durable import storage_errors, sync_folder, write_file
from adapters.errors import InvalidName, UploadRejected
from adapters.ledger import Ledger
from adapters.manifest import FileSpec, Manifest, content_digest
from adapters.names import Reference, check_name, check_tenant, check_upload_id, parse_reference
from adapters.paging import decode_token, encode_token
from adapters.pins import Pins
from adapters.quota import Quota
from adapters.staging import Staging
from adapters.uploads import UploadLimits, Uploads
from adapters.version import AdapterVersion, choose_record, describe

__all__ = ["AdapterVersion", "LocalStore", "Store"]

MAX_PAGE_SIZE = 1000

# Inside the class, `list` is the method.
Versions = list[AdapterVersion]
Digests = list[str]


class Store:
    """Thread-safe; `close` gives back what only one process may use.

    Every method raises StoreUnavailable when the storage fails, InvalidName for a malformed name or
    reference, and AdapterNotFound where it is asked for something that is not live.
    """

    def __init__(
        self,
        folder: Path,
        backend: Backend,
        quota: Quota | None = None,
        limits: UploadLimits | None = None,
    ) -> None:
        self._backend = backend
        self._staging = folder / "staging"
        self._quota = quota or Quota()
        self._beginning, self._counting = Lock(), Lock()
        # Digests of commits under way: their blobs are wanted, though no document names them yet.
        self._committing: Counter[str] = Counter()
        self._ledger = Ledger(backend)
        self.aliases = Aliases(self._ledger)
        self.pins = Pins(self._ledger, self._quota)
        with storage_errors(f"opening {folder}"):
            self.uploads = Uploads(self._staging, limits or UploadLimits())
        self._ledger.refresh()
        self._catalog = Catalog(backend)

    @property
    def is_shared(self) -> bool:
        """Whether other servers may change what is stored."""
        return self._backend.is_shared

    def close(self) -> None:
        """Lets another process in; the store must not be used afterwards."""
        self._backend.close()

    def refresh(self) -> bool:
        """Takes in what other servers of the same storage changed; whether there was anything."""
        return self._ledger.refresh()

    def begin(self, declaration: Declaration, max_bytes: int) -> tuple[Staging, int]:
        """An upload that can be gone on with, and the number of its writer; nothing is written for a
        declaration that breaks a limit.

        Raises UploadRejected, UploadTooLarge or StoreQuotaExceeded.
        """
        check_tenant(declaration.tenant)
        check_name(declaration.name)
        check_upload_id(declaration.upload_id)
        check_files(declaration.files, max_bytes)
        with self._beginning, storage_errors("beginning an upload"):
            self._check_quota(declaration)
            return self.uploads.begin(declaration)

    def stage(self, files: Sequence[FileSpec], max_bytes: int) -> Staging:
        """A place for files that come in one go. Raises UploadRejected or UploadTooLarge."""
        check_files(files, max_bytes)
        upload_id = uuid.uuid4().hex
        declaration = Declaration("default", "staged", upload_id, _sorted(files), time.time())
        return Staging.create(self._staging / upload_id, declaration)

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
            with self._wanting(manifest.digest):
                self._backend.put_blob(staging.folder, manifest)
                now, size = time.time(), manifest.num_bytes
                _, entry = self._ledger.update(
                    tenant, name, lambda entry: entry.with_version(manifest.digest, size, now)
                )
        return describe(entry, entry.records[-1], manifest)

    def resolve(self, tenant: str, reference: str | Reference, key: str | None = None) -> AdapterVersion:
        """The version a reference means: the one it gives, the newest live one, or an alias's.

        Where an alias points at several, `key` chooses: the same one for the same key. Without a key such
        an alias is ambiguous, and InvalidName is raised.
        """
        entry = self._ledger.find(tenant, reference)
        return self._catalog.version(entry, choose_record(entry, parse_reference(str(reference)), key))

    def get(self, tenant: str, name: str, version: int) -> AdapterVersion:
        """Exactly this version."""
        return self.resolve(tenant, Reference(name, version))

    def is_live(self, version: AdapterVersion) -> bool:
        """From memory alone."""
        return self._ledger.index.is_live(version.tenant, version.name, version.version)

    def was_forced_out(self, tenant: str, name: str, version: int) -> bool:
        """Whether it was deleted by force lately, at whichever server. From memory alone."""
        buried = self._ledger.index.get(tenant, name)[0].tombstones
        return any(each.version == version and each.forced for each in buried)

    def list(self, tenant: str, page_size: int = 100, page_token: str = "") -> tuple[Versions, str]:
        """Live versions by name, then version, and the token of the next page ("" after the last).

        At most 1000 per page. A version whose stored bytes are damaged is left out and logged.
        """
        check_tenant(tenant)
        page_size = min(max(page_size, 1), MAX_PAGE_SIZE)
        found = self._ledger.index.after(tenant, *decode_token(page_token), page_size + 1)
        page = found[:page_size]
        next_token = encode_token(page[-1][0].name, page[-1][1].version) if len(found) > page_size else ""
        return self._catalog.readable(page), next_token

    def delete(self, tenant: str, reference: str | Reference, force: bool = False) -> Versions:
        """Retires the version a reference gives, or every version of the name; returns them, oldest first.

        The bytes stay until `collect`; the version numbers are never used again. Raises VersionInUse for a
        version that an alias names, unless forced: then the alias loses it.
        """
        wanted = parse_reference(str(reference))
        if wanted.alias:
            raise InvalidName(f"{wanted} is an alias; delete the alias, or a version by its number.")
        self._ledger.find(tenant, wanted)
        before, _ = self._ledger.update(
            tenant,
            wanted.name,
            lambda entry: entry.without({r.version for r in entry.matching(wanted)}, force, time.time()),
        )
        return self._catalog.readable([(before, record) for record in before.matching(wanted)])

    def folder(self, digest: str, is_held: IsHeld = lambda digest: True) -> Path:
        """Where an adapter's files are: on this machine once this returns, for as long as it is held."""
        with storage_errors("reading an adapter"):
            return self._backend.get_blob(digest, is_held)

    def read_file(self, digest: str, name: str) -> bytes | None:
        """One small file of an adapter, None if it has none of that name."""
        with storage_errors("reading an adapter"), suppress(FileNotFoundError):
            return self._backend.read_file(digest, name)
        return None

    def collect(self, is_held: IsHeld = lambda digest: False) -> Digests:
        """Removes the bytes of adapters that no live version names and nobody holds: their digests."""
        with storage_errors("removing deleted adapters"):
            return self._backend.collect(self.is_wanted, is_held, self._ledger.index.deletions())

    @contextmanager
    def _wanting(self, digest: str) -> Iterator[None]:
        with self._counting:
            self._committing[digest] += 1
        try:
            yield
        finally:
            with self._counting:
                self._committing[digest] -= 1

    def is_wanted(self, digest: str) -> bool:
        """Whether a live version, or one about to be, is this adapter. From memory alone."""
        # In this order: a commit names its blob in the index before it no longer counts as under way.
        return self._committing[digest] > 0 or self._ledger.index.has(digest)

    def _check_quota(self, declaration: Declaration) -> None:
        newest = self._ledger.index.get(declaration.tenant, declaration.name)[0].records[-1:]
        if newest and newest[0].digest == declaration.digest:
            return
        stored, coming = (
            self._ledger.index.usage(declaration.tenant),
            self.uploads.reserved(declaration.tenant),
        )
        self._quota.check_upload(stored[0] + coming[0] + 1, stored[1] + coming[1] + declaration.size)


class LocalStore(Store):
    """A store in a folder on a local disk. One process per folder."""

    def __init__(self, root: Path, quota: Quota | None = None, limits: UploadLimits | None = None) -> None:
        with storage_errors(f"opening {root}"):
            backend = DiskBackend(root)
        try:
            super().__init__(root, backend, quota, limits)
        except BaseException:
            backend.close()
            raise


def _sorted(files: Sequence[FileSpec]) -> tuple[FileSpec, ...]:
    return tuple(sorted(files, key=lambda file: file.name))
