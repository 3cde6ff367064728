"""Who changed what: one line of JSON for each call that changes something, each bound to the one before it.

    {"seq": 7, "time": ..., "tenant": ..., "key": ..., "peer": ..., "what": "SetAlias", "name": ...,
     "digest": ..., "code": "OK", "request": ..., "prev": <hash of line 6>, "hash": <sha256 of this one>}

A line's hash covers its text up to the hash, so what is changed, taken out or put in between is found by
whoever reads the chain. Lines cut off at the end are not: keep the last hash elsewhere, as
`lorikeet audit verify` prints it.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from adapters.durable import append, create, make_folder, storage_errors, sync_folder, write_all
from adapters.errors import StoreUnavailable

FIRST = "0" * 64
_NAME = re.compile(r"audit-(\d{8})\.jsonl\Z")
_TAIL = re.compile(rb', "hash": "([0-9a-f]{64})"}\Z')


class Head(NamedTuple):
    """The end of a chain: lines so far, and the last one's hash."""

    seq: int
    hash: str


class BrokenChain(Exception):
    """The log is not what was written; the message names the first line that shows it."""


class AuditLog:
    """Thread-safe; one per folder. Raises StoreUnavailable when the disk fails, and then for good.

    After a failed write nobody knows what the disk has, so no more is written until the process is started
    again, and by `require` nothing more is changed.
    """

    def __init__(self, folder: Path, max_file_bytes: int) -> None:
        self._folder = folder
        self._max_file_bytes = max_file_bytes
        self._lock = Lock()
        self._failed = False
        with storage_errors("opening the audit log"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            make_folder(folder)
            self._number, self._head = _resume(folder)
            self._fd, self._size = self._open()

    def require(self) -> None:
        """Raises StoreUnavailable if a change could not be written down."""
        if self._failed:
            raise StoreUnavailable("The audit log cannot be written; check the server's storage, restart it.")

    def write(self, **fields: Any) -> None:
        """Adds a line, durable on return."""
        with self._lock:
            self.require()
            line, head = _bind({"seq": self._head.seq + 1, "time": time.time(), **fields}, self._head)
            try:
                with storage_errors("writing the audit log"):
                    self._append(line)
            except StoreUnavailable:
                self._failed = True
                raise
            self._head = head

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def _append(self, line: bytes) -> None:
        if self._size and self._size + len(line) > self._max_file_bytes:
            os.close(self._fd)
            self._number += 1
            self._fd, self._size = self._open()
        write_all(self._fd, line)
        os.fsync(self._fd)
        self._size += len(line)

    def _open(self) -> tuple[int, int]:
        path = self._folder / f"audit-{self._number:08}.jsonl"
        if path.exists():
            return append(path), path.stat().st_size
        fd = create(path)
        sync_folder(self._folder)
        return fd, 0


def verify(folder: Path, expected: str | None = None) -> tuple[Head, bool]:
    """Reads the whole chain; raises BrokenChain at the first line that was not written so, or OSError.

    Returns its end, and whether a line has the expected hash.
    """
    head, found = Head(0, FIRST), False
    for path in _files(folder):
        for number, line in enumerate(_lines(path), 1):
            problem, head = _check(line, head)
            if problem:
                raise BrokenChain(f"{path.name}, line {number}: {problem}")
            found = found or head.hash == expected
    return head, found


def _bind(fields: dict[str, Any], head: Head) -> tuple[bytes, Head]:
    body = json.dumps({**fields, "prev": head.hash}, ensure_ascii=True)[:-1].encode()
    digest = hashlib.sha256(body).hexdigest()
    return body + f', "hash": "{digest}"}}\n'.encode(), Head(head.seq + 1, digest)


def _check(line: bytes, head: Head) -> tuple[str, Head]:
    """What is wrong with a line, and the head behind it."""
    tail = _TAIL.search(line)
    if tail is None:
        return "it is no line of an audit log", head
    if hashlib.sha256(line[: tail.start()]).hexdigest() != tail[1].decode():
        return "it was changed after it was written", head
    try:
        fields = json.loads(line)
        seq, prev = fields["seq"], fields["prev"]
    except (ValueError, KeyError, TypeError):
        return "it is no line of an audit log", head
    if (seq, prev) != (head.seq + 1, head.hash):
        return f"it does not follow line {head.seq} of the log; lines were removed, added or moved", head
    return "", Head(seq, fields["hash"])


def _resume(folder: Path) -> tuple[int, Head]:
    """The number of the last file, and the end of the chain; what a kill left of a line is cut off."""
    files = list(_files(folder))
    for path in reversed(files):
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1]
        if path == files[-1] and whole != text:
            os.truncate(path, len(whole))
        if whole:
            fields = json.loads(whole.splitlines()[-1])
            return int(files[-1].stem[-8:]), Head(fields["seq"], fields["hash"])
    return (int(files[-1].stem[-8:]) if files else 1), Head(0, FIRST)


def _files(folder: Path) -> Iterator[Path]:
    yield from sorted(path for path in folder.iterdir() if _NAME.match(path.name))


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            yield line.removesuffix(b"\n")
