"""A stored adapter's files, read whole into memory that is used again, and proven to be what was checked.

The rule of proof. The first time a process reads a file it computes the file's sha256, while the caller works
with the bytes already: `prove` says whether they were the right ones, and nothing made of them may be used
before. Read again, a file that the system calls unchanged (device, inode, size, times of change of content
and of inode) is proven by the sum of its 64-bit words, which finds what a failing disk turned over. A file
changed less than SETTLED_SECONDS before it was hashed is hashed again: file systems' clocks are that coarse.
"""

from __future__ import annotations

import hashlib
import os
import time
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from adapters.errors import InvalidAdapter
from adapters.files import open_regular
from adapters.manifest import FileSpec

SETTLED_SECONDS = 2.0
# The first byte of a file stands at a multiple of this.
ALIGNMENT = 64

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

    def holds(self, spec: FileSpec, content: Bytes, before: os.stat_result) -> bool:
        """Whether the content, of a file that was `before` when it was opened, is what the spec names."""
        known, identity = self._proofs.get(spec.sha256), _identity(before)
        if known is not None and known.identity == identity and known.words == _sum(content):
            return True
        if hashlib.sha256(content.data).hexdigest() != spec.sha256:
            return False
        if time.time() - max(before.st_ctime, before.st_mtime) > SETTLED_SECONDS:
            self._proofs[spec.sha256] = _Proof(identity, _sum(content))
        return True


class Contents:
    """One reader's memory. What `read` returned is overwritten by what is read after the next `prove`."""

    def __init__(self, proofs: Proofs, hashers: Executor) -> None:
        self._proofs = proofs
        self._hashers = hashers
        self._memory = np.empty(0, dtype=np.uint8)
        self._taken = 0
        self._asked: list[tuple[str, Future[bool]]] = []

    def read(self, path: Path, spec: FileSpec) -> memoryview:
        """The file's bytes, not proven yet; raises InvalidAdapter if its size differs, or OSError."""
        with open_regular(path) as fd:
            before = os.fstat(fd)
            content = self._take(spec.size + 1)
            if _fill(fd, content) != spec.size:
                raise _changed(path.name)
        content = content[: spec.size]
        self._asked.append((path.name, self._hashers.submit(self._proofs.holds, spec, content, before)))
        return content.data

    def prove(self) -> None:
        """Waits for the proof of everything read since the last one; raises InvalidAdapter."""
        asked, self._asked = self._asked, []
        wrong = [name for name, proof in asked if not proof.result()]
        if self._taken > len(self._memory):
            self._memory = np.empty(self._taken, dtype=np.uint8)
        self._taken = 0
        if wrong:
            raise _changed(wrong[0])

    def _take(self, size: int) -> Bytes:
        """Of the memory, or fresh: then the memory grows for the next time."""
        start = -(-self._taken // ALIGNMENT) * ALIGNMENT
        self._taken = start + size
        fits = self._taken <= len(self._memory)
        return self._memory[start : self._taken] if fits else np.empty(size, dtype=np.uint8)


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
    """Bytes read: those of the file, or as many as there is room for."""
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
