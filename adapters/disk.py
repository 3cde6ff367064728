"""Adapters on a local disk, used by one process.

    <root>/blobs/<ab>/<digest>/   an adapter's files and its manifest, immutable
    <root>/refs/<key>.json        all that is known of one name
    <root>/trash                  bytes on their way out; emptied at start
    <root>/lock                   held by the one process that uses the root

A blob's files are synced, moved into place in one step, and the move is synced, before a document names it. A
document is written beside its place, synced, moved over the old one, and the move is synced.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock

from adapters.backend import IsHeld, Ref, RefChanged
from adapters.blobs import Blobs, empty
from adapters.durable import make_folder, sync_folder, write_file
from adapters.errors import StoreUnavailable
from adapters.manifest import Manifest

_SUFFIX = ".json"


class DiskBackend:
    """A Backend in a folder; `close` (or the end of the process) lets the next process in."""

    is_shared = False

    def __init__(self, root: Path) -> None:
        self._fd = lock_folder(root)
        self._refs = root / "refs"
        for folder in (root / "blobs", self._refs, root / "trash"):
            make_folder(folder)
        empty(root / "trash")
        self._blobs = Blobs(root / "blobs", root / "trash")
        self._lock, self._blobs_lock = Lock(), Lock()

    def put_blob(self, staged: Path, manifest: Manifest) -> None:
        with self._blobs_lock:
            self._blobs.place(staged, manifest)

    def get_blob(self, digest: str, is_held: IsHeld) -> Path:
        return self._blobs.folder(digest)

    def read_file(self, digest: str, name: str) -> bytes:
        return (self._blobs.folder(digest) / name).read_bytes()

    def collect(self, keep: IsHeld, is_held: IsHeld, deletions: Mapping[str, float]) -> list[str]:
        # Asked and removed under one lock: a blob that a commit has just found here is wanted by then.
        with self._blobs_lock:
            gone = self._blobs.discard_unless(lambda digest: keep(digest) or is_held(digest))
        for path in gone.values():
            shutil.rmtree(path, ignore_errors=True)
        return list(gone)

    def get_ref(self, key: str) -> Ref | None:
        try:
            data = (self._refs / f"{key}{_SUFFIX}").read_bytes()
        except FileNotFoundError:
            return None
        return Ref(key, data, _etag(data))

    def changed_refs(self, known: Mapping[str, str]) -> Iterator[str]:
        for entry in sorted(os.listdir(self._refs)):
            if entry.endswith(_SUFFIX):
                yield entry.removesuffix(_SUFFIX)
            else:
                # The draft of a run that was killed.
                os.unlink(self._refs / entry)

    def cas_ref(self, key: str, data: bytes, etag: str) -> str:
        with self._lock:
            before = self.get_ref(key)
            if etag != ("" if before is None else before.etag):
                raise RefChanged(key)
            self._replace(key, data, before)
        return _etag(data)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _replace(self, key: str, data: bytes, before: Ref | None) -> None:
        final, draft = self._refs / f"{key}{_SUFFIX}", self._refs / f"{uuid.uuid4().hex}.tmp"
        moved = False
        try:
            write_file(draft, data)
            os.rename(draft, final)
            moved = True
            sync_folder(self._refs)
        except BaseException:
            with suppress(OSError):
                self._undo(draft, final if moved else None, before)
            raise

    def _undo(self, draft: Path, final: Path | None, before: Ref | None) -> None:
        """What could not be made durable is not left visible either."""
        if final is None:
            os.unlink(draft)
        elif before is None:
            os.unlink(final)
        else:
            write_file(draft, before.data)
            os.rename(draft, final)


def lock_folder(root: Path) -> int:
    """Makes a folder this process's own; raises StoreUnavailable if it is another's."""
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise StoreUnavailable(f"Another server uses {root}; stop it or choose another folder.") from error
    except BaseException:
        os.close(fd)
        raise
    return fd


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
