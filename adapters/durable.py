"""The few file operations that survive a power cut, and the one place where OSError becomes StoreUnavailable.

A file is durable after fsync(file) and fsync(its folder), a rename or link after fsync(its new folder).
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from adapters.errors import StoreUnavailable

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turns an OSError inside into StoreUnavailable: "The store failed while `doing` ..."."""
    try:
        yield
    except OSError as error:
        hint = "free some space" if error.errno in _FULL else "check the server's storage"
        raise StoreUnavailable(
            f"The store failed while {doing} ({error.strerror}); {hint}, then retry."
        ) from error


def create(path: Path) -> int:
    """Opens a new private file for writing; never an existing one and never through a link."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def append(path: Path) -> int:
    """Opens a file of ours to write at its end; never through a link."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Writes every byte, however short the single writes are."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def write_file(path: Path, data: bytes) -> None:
    """Creates a file that is durable once its folder is synced."""
    fd = create(path)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file whole, durable on return; a reader or a crash finds the old content or the new."""
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write_file(new, data)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes the entries of a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_folder(path: Path) -> None:
    """Creates a private folder durably if it is not there; its parent must exist."""
    # An existing one may be the leftover of a run that was killed before its sync, so it is synced again.
    with suppress(FileExistsError):
        os.mkdir(path, 0o700)
    sync_folder(path.parent)
