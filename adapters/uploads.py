"""Unfinished uploads: found again by their id, bounded in number, bytes and age."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import Lock

from adapters.declaration import Declaration
from adapters.durable import make_folder, storage_errors
from adapters.errors import UploadNotFound, UploadRejected
from adapters.staging import Staging

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class UploadLimits:
    """What unfinished uploads may take, the suspended ones included."""

    max_age: float = 24 * 3600.0
    max_bytes: int = 64 << 30
    max_per_tenant: int = 16


class Uploads:
    """Thread-safe. A suspended upload makes way for a new one, the oldest first; one under way never does."""

    def __init__(self, folder: Path, limits: UploadLimits) -> None:
        self._folder = folder
        self._limits = limits
        self._lock = Lock()
        self._writers = count(1)
        make_folder(folder)
        self._open = {_key(s.declaration.tenant, s.declaration.upload_id): s for s in _reopen(folder)}
        self.expire()

    def begin(self, declaration: Declaration) -> tuple[Staging, int]:
        """A new upload, or the one of this id where it stopped; and the number that may write it.

        Raises UploadRejected if the id belongs to other files, and StoreUnavailable.
        """
        self.expire()
        key = _key(declaration.tenant, declaration.upload_id)
        with self._lock:
            staging = self._open.get(key)
            if staging is None:
                self._make_room(declaration)
                staging = self._open[key] = Staging.create(self._folder / key, declaration)
            _require_same(staging.declaration, declaration)
            writer = next(self._writers)
            staging.attach(writer)
            return staging, writer

    def get(self, tenant: str, upload_id: str) -> Staging:
        """Raises UploadNotFound."""
        with self._lock:
            staging = self._open.get(_key(tenant, upload_id))
        if staging is None:
            raise UploadNotFound(f"There is no unfinished upload {upload_id}; begin it anew.")
        return staging

    def end(self, staging: Staging) -> None:
        """Removes an upload, whatever became of it."""
        with self._lock:
            self._drop(staging)

    def expire(self) -> bool:
        """Removes suspended uploads that are too old; whether there were any."""
        oldest = time.time() - self._limits.max_age
        with self._lock:
            suspended = self._suspended(self._open.values())
            expired = [staging for staging in suspended if staging.declaration.begun_at < oldest]
            for staging in expired:
                self._drop(staging)
        return bool(expired)

    def expires_at(self, staging: Staging) -> float:
        """In seconds since the epoch."""
        return staging.declaration.begun_at + self._limits.max_age

    def reserved(self, tenant: str) -> tuple[int, int]:
        """A tenant's uploads that are under way, and the bytes they will have."""
        with self._lock:
            found = [
                staging.declaration
                for staging in self._open.values()
                if staging.declaration.tenant == tenant and not staging.is_suspended
            ]
        return len(found), sum(declaration.size for declaration in found)

    def _make_room(self, new: Declaration) -> None:
        own = [s for s in self._open.values() if s.declaration.tenant == new.tenant]
        for staging in self._suspended(own)[: max(0, len(own) + 1 - self._limits.max_per_tenant)]:
            self._drop(staging)
        for staging in self._suspended(self._open.values()):
            if self._num_bytes() + new.size <= self._limits.max_bytes:
                break
            self._drop(staging)

    def _num_bytes(self) -> int:
        return sum(staging.declaration.size for staging in self._open.values())

    def _drop(self, staging: Staging) -> None:
        self._open.pop(_key(staging.declaration.tenant, staging.declaration.upload_id), None)
        staging.discard()

    @staticmethod
    def _suspended(stagings: Iterable[Staging]) -> list[Staging]:
        """Oldest first."""
        found = [staging for staging in stagings if staging.is_suspended]
        return sorted(found, key=lambda staging: staging.declaration.begun_at)


def _key(tenant: str, upload_id: str) -> str:
    return hashlib.sha256(f"{tenant}/{upload_id}".encode()).hexdigest()


def _require_same(begun: Declaration, now: Declaration) -> None:
    if (begun.name, begun.files) != (now.name, now.files):
        raise UploadRejected(
            f"The upload {now.upload_id} was begun with another name or other files; use another id."
        )


def _reopen(folder: Path) -> list[Staging]:
    """What an earlier process left; what cannot be gone on with is removed."""
    found = []
    with storage_errors("looking for unfinished uploads"):
        for entry in os.listdir(folder):
            try:
                staging = Staging.reopen(folder / entry)
                if entry != _key(staging.declaration.tenant, staging.declaration.upload_id):
                    raise ValueError("nobody has its id")
                found.append(staging)
            except (OSError, ValueError) as error:
                _log.info("an unfinished upload is dropped: %s", error)
                shutil.rmtree(folder / entry, ignore_errors=True)
    return found
