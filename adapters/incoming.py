"""One file of an upload on its way in."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from adapters.durable import append, create, write_all
from adapters.errors import ChecksumMismatch, UploadIncomplete
from adapters.files import chunks
from adapters.manifest import FileSpec


class IncomingFile:
    """Its declaration, what arrived, and the hash of that. Every method raises OSError."""

    def __init__(self, path: Path, spec: FileSpec) -> None:
        self.spec = spec
        self.size = 0
        self._path = path
        self._digest = hashlib.sha256()
        self._num_hashed = 0
        self._fd = -1

    def create(self) -> None:
        self._fd = create(self._path)

    def find(self) -> None:
        """Takes over what an earlier process wrote; raises OSError, or ValueError if it is too much."""
        self.size = os.stat(self._path, follow_symlinks=False).st_size
        if self.size > self.spec.size:
            raise ValueError(f"{self.spec.name} is longer than declared")

    def write(self, data: bytes | memoryview) -> None:
        self._catch_up()
        if self._fd < 0:
            self._fd = append(self._path)
        write_all(self._fd, data)
        self._digest.update(data)
        self.size += len(data)
        self._num_hashed = self.size

    def check_size(self) -> None:
        if self.size != self.spec.size:
            raise UploadIncomplete(
                f"{self.spec.name} has {self.spec.size} declared bytes, {self.size} arrived; send the rest."
            )

    def check_content(self) -> None:
        self._catch_up()
        if self._digest.hexdigest() != self.spec.sha256:
            raise ChecksumMismatch(f"{self.spec.name} does not have its declared sha256; send it again.")

    def sync(self) -> None:
        if self._fd < 0:
            self._fd = append(self._path)
        os.fsync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _catch_up(self) -> None:
        """Hashes what an earlier process wrote; not at start, where nobody knows if it is wanted again."""
        if self._num_hashed < self.size:
            fd = os.open(self._path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                for chunk in chunks(fd, self._num_hashed, self.size):
                    self._digest.update(chunk)
            finally:
                os.close(fd)
            self._num_hashed = self.size
