"""Opening and reading files that a stranger filled: regular files only, never through a link."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adapters.errors import InvalidAdapter

CONFIG_NAME = "adapter_config.json"
WEIGHTS_NAME = "adapter_model.safetensors"
FILE_NAMES = (CONFIG_NAME, WEIGHTS_NAME)
CARD_NAME = "README.md"
STORY_NAME = "lorikeet_manifest.json"
_MIB = 1024 * 1024
# What may come with an adapter -> bytes that are taken of it.
OPTIONAL_FILES = {CARD_NAME: _MIB, STORY_NAME: _MIB}
MAX_CONFIG_BYTES = 64 * 1024
CHUNK_BYTES = 1024 * 1024
# What the folder's author can cause; anything else, such as EIO, is the disk's fault and stays an OSError.
_NOT_A_FILE = (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES, errno.ENOTDIR)


@contextmanager
def open_regular(path: Path) -> Iterator[int]:
    """Yields a read-only descriptor; raises InvalidAdapter unless `path` is a regular file."""
    try:
        # O_NONBLOCK keeps a planted FIFO from blocking the open forever; it means nothing on a regular file.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in _NOT_A_FILE:
            raise
        raise InvalidAdapter(
            [f"{path.name} cannot be opened as a regular file ({error.strerror})"]
        ) from error
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InvalidAdapter([f"{path.name} is not a regular file"])
        yield fd
    finally:
        os.close(fd)


def read_at(fd: int, start: int, length: int) -> bytes:
    """Reads exactly `length` bytes from `start`, or fewer only at the end of the file."""
    parts = []
    while length > 0:
        part = os.pread(fd, length, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
        length -= len(part)
    return b"".join(parts)


def chunks(fd: int, start: int, end: int) -> Iterator[bytes]:
    """Yields bytes [start, end) in pieces of at most 1 MiB."""
    for at in range(start, end, CHUNK_BYTES):
        yield read_at(fd, at, min(CHUNK_BYTES, end - at))


def size_and_sha256(fd: int) -> tuple[int, str]:
    """Size in bytes and hex sha256 of an open file."""
    size, digest = os.fstat(fd).st_size, hashlib.sha256()
    for chunk in chunks(fd, 0, size):
        digest.update(chunk)
    return size, digest.hexdigest()
