"""The versions that names' documents list, with what the check has found of each."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import lru_cache

from adapters.backend import Backend
from adapters.blobs import MANIFEST_NAME
from adapters.durable import storage_errors
from adapters.entry import Entry, Record
from adapters.errors import DamagedAdapter
from adapters.manifest import Manifest
from adapters.version import AdapterVersion, describe

_CACHED_MANIFESTS = 4096
_log = logging.getLogger(__name__)


class Catalog:
    """Thread-safe; keeps the manifests that were asked for last, which never change."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._manifest = lru_cache(_CACHED_MANIFESTS)(self._read_manifest)

    def version(self, entry: Entry, record: Record) -> AdapterVersion:
        """Raises DamagedAdapter or StoreUnavailable."""
        return describe(entry, record, self._manifest(record.digest))

    def readable(self, found: Iterable[tuple[Entry, Record]]) -> list[AdapterVersion]:
        """All but the damaged ones, which are logged. Raises StoreUnavailable."""
        versions = []
        for entry, record in found:
            try:
                versions.append(self.version(entry, record))
            except DamagedAdapter as error:
                _log.error("version %d of %s/%s: %s", record.version, entry.tenant, entry.name, error)
        return versions

    def _read_manifest(self, digest: str) -> Manifest:
        with storage_errors("reading an adapter"):
            try:
                return Manifest.from_json(self._backend.read_file(digest, MANIFEST_NAME).decode())
            except (FileNotFoundError, ValueError) as error:
                raise DamagedAdapter(
                    f"The stored adapter {digest[:12]} is damaged; upload it again."
                ) from error
