"""Copies of a bucket's blobs on this server's disk: fetched when wanted, proven, oldest out first by bytes.

The folder is laid out as a local store's, so the engine reads from it as from one.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from adapters.backend import IsHeld
from adapters.blobs import MANIFEST_NAME, Blobs, empty, is_intact
from adapters.disk import lock_folder
from adapters.durable import make_folder
from adapters.manifest import Manifest, content_digest

Fetch = Callable[[str, Path], None]


class BlobCache:
    """Thread-safe; one process per folder. A copy is hashed when this process first uses it."""

    def __init__(self, root: Path, max_bytes: int) -> None:
        self._fd = lock_folder(root)
        for folder in (root / "blobs", root / "trash", root / "fetching"):
            make_folder(folder)
        empty(root / "trash")
        empty(root / "fetching")
        self._fetching = root / "fetching"
        self._blobs = Blobs(root / "blobs", root / "trash")
        self._max_bytes = max_bytes
        self._lock = Lock()
        # Digest -> bytes of each copy, the one used longest ago first; those proven by this process.
        self._sizes = OrderedDict(self._blobs.sizes())
        self._proven: set[str] = set()
        self._locks: dict[str, Lock] = {}

    def get(self, digest: str, fetch: Fetch, is_held: IsHeld) -> Path:
        """The folder of a proven copy; `fetch` fills an empty folder if there is none. Raises OSError."""
        with self._alone(digest):
            folder = self._blobs.folder(digest)
            if not self._is_proven(digest, folder):
                self._take_in(digest, fetch)
            # What the engine made of it since counts too.
            self._note(digest)
            with self._lock:
                self._sizes.move_to_end(digest)
        self._make_room(is_held, newest=digest)
        return folder

    def find(self, digest: str) -> Path | None:
        """The folder of a copy that this process has proven, if there is one."""
        return self._blobs.folder(digest) if digest in self._proven else None

    def adopt(self, staged: Path, manifest: Manifest) -> None:
        """Moves a checked upload in, so that the server that took it need not fetch it."""
        with self._alone(manifest.digest):
            self._blobs.place(staged, manifest)
            self._note(manifest.digest)

    def discard_unless(self, keep: Callable[[str], bool]) -> list[str]:
        """Removes the copies that nobody wants: their digests."""
        return [digest for digest in self._known() if not keep(digest) and self._discard(digest, keep)]

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _is_proven(self, digest: str, folder: Path) -> bool:
        if digest in self._proven and folder.exists():
            return True
        if folder.exists():
            if _is_copy(folder, digest):
                return True
            self._remove(digest)
        return False

    def _take_in(self, digest: str, fetch: Fetch) -> None:
        folder = self._fetching / uuid.uuid4().hex
        os.mkdir(folder, 0o700)
        try:
            fetch(digest, folder)
            if not _is_copy(folder, digest):
                raise OSError(0, f"the bucket's adapter {digest[:12]} is damaged, upload it again")
            self._blobs.move_in(folder, digest)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _note(self, digest: str) -> None:
        size = self._blobs.size(digest)
        with self._lock:
            self._proven.add(digest)
            self._sizes[digest] = size

    def _make_room(self, is_held: IsHeld, newest: str) -> None:
        for digest in self._known():
            with self._lock:
                if sum(self._sizes.values()) <= self._max_bytes:
                    return
            if digest != newest:
                self._discard(digest, is_held)

    def _discard(self, digest: str, is_held: Callable[[str], bool]) -> bool:
        # Asked where nobody else can fetch it: who holds it from here on finds it gone, and fetches.
        with self._alone(digest):
            if is_held(digest) or digest not in self._sizes:
                return False
            self._remove(digest)
            return True

    def _known(self) -> list[str]:
        with self._lock:
            return list(self._sizes)

    def _remove(self, digest: str) -> None:
        with self._lock:
            self._proven.discard(digest)
            self._sizes.pop(digest, None)
        shutil.rmtree(self._blobs.discard(digest), ignore_errors=True)

    @contextmanager
    def _alone(self, digest: str) -> Iterator[None]:
        with self._lock:
            lock = self._locks.setdefault(digest, Lock())
        with lock:
            yield


def _is_copy(folder: Path, digest: str) -> bool:
    try:
        manifest = Manifest.from_json((folder / MANIFEST_NAME).read_text())
    except (OSError, ValueError):
        return False
    return content_digest(manifest.files) == digest and is_intact(folder, manifest)
