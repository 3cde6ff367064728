"""A stored adapter's bytes, proven to be what was checked.

The rule of proof. The first time a process reads a file it computes the sha256 of the bytes. Read again, a
file that the system calls unchanged (device, inode, size, times of change of content and of inode) is proven
by the sum of its 64-bit words, which finds what a failing disk turned over. A file changed less than
SETTLED_SECONDS before it was hashed is hashed again: file systems' clocks are that coarse.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.errors import InvalidAdapter
from adapters.files import open_regular
from adapters.manifest import FileSpec

SETTLED_SECONDS = 2.0

Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class _Proof:
    """A file as it was when its sha256 was found right, and the sum of its words."""

    identity: tuple[int, ...]
    words: int


class Proofs:
    """What this process has proven, by sha256; shared by all its threads."""

    def __init__(self) -> None:
        self._proofs: dict[str, _Proof] = {}

    def read(self, fd: int, content: Bytes, sha256: str) -> bool:
        """Fills `content` with a file's first bytes; whether they are what the hash names. Raises OSError."""
        before = os.fstat(fd)
        return _fill(fd, content) == len(content) and self._holds(content, sha256, before)

    def _holds(self, content: Bytes, sha256: str, before: os.stat_result) -> bool:
        """Of a file that was `before` when it was opened."""
        known, identity = self._proofs.get(sha256), _identity(before)
        if known is not None and known.identity == identity and known.words == _sum(content):
            return True
        if hashlib.sha256(content.data).hexdigest() != sha256:
            return False
        if time.time() - max(before.st_ctime, before.st_mtime) > SETTLED_SECONDS:
            self._proofs[sha256] = _Proof(identity, _sum(content))
        return True


def read_proven(path: Path, spec: FileSpec) -> memoryview:
    """A file in memory of its own, proven by its sha256. Raises InvalidAdapter or OSError."""
    with open_regular(path) as fd:
        content = np.empty(spec.size + 1, dtype=np.uint8)
        size = _fill(fd, content)
    content = content[: spec.size]
    if size != spec.size or hashlib.sha256(content.data).hexdigest() != spec.sha256:
        raise _changed(path.name)
    return content.data


def _fill(fd: int, content: Bytes) -> int:
    """Bytes read, from the file's first on: all of them, or as many as there is room for."""
    size, view = 0, content.data
    while size < len(content) and (num_read := os.preadv(fd, [view[size:]], size)):
        size += num_read
    return size


def _identity(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _sum(content: Bytes) -> int:
    whole = len(content) // 8 * 8
    return int(content[:whole].view(np.uint64).sum(dtype=np.uint64)) ^ int.from_bytes(content[whole:], "big")


def _changed(name: str) -> InvalidAdapter:
    return InvalidAdapter([f"{name} is not the file that was checked; its bytes changed on disk"])
