"""An upload on its way in: declared first, then streamed, hashed and sealed.

open --write*--> full --seal--> sealed --(store.commit)--> gone
   any error or discard --> gone, bytes removed
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from adapters.durable import create, storage_errors, write_all
from adapters.errors import ChecksumMismatch, UploadRejected, UploadTooLarge
from adapters.files import CONFIG_NAME, FILE_NAMES, MAX_CONFIG_BYTES, OPTIONAL_FILES
from adapters.manifest import FileSpec
from adapters.strict_json import show

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


def check_declaration(files: Sequence[FileSpec], max_bytes: int) -> None:
    """Raises UploadRejected or UploadTooLarge if these files would never be taken."""
    _check_names([file.name for file in files])
    limits = {CONFIG_NAME: MAX_CONFIG_BYTES, **OPTIONAL_FILES}
    for file in files:
        if file.size < 1:
            raise UploadRejected(f"{file.name} is declared with {file.size} bytes; declare its true size.")
        if not _SHA256.match(file.sha256):
            raise UploadRejected(
                f"{file.name} is declared without a sha256; declare 64 lower-case hex digits."
            )
        if file.size > limits.get(file.name, file.size):
            raise UploadRejected(
                f"{file.name} is declared with {file.size} bytes; at most {limits[file.name]} are taken."
            )
    total = sum(file.size for file in files)
    if total > max_bytes:
        raise UploadTooLarge(
            f"The adapter has {total} bytes; at most {max_bytes} are taken. Train it with a lower rank."
        )


def _check_names(names: list[str]) -> None:
    if len(set(names)) == len(names) and set(FILE_NAMES) <= set(names) <= {*FILE_NAMES, *OPTIONAL_FILES}:
        return
    raise UploadRejected(
        f"The upload declares {show(names)}; declare {' and '.join(FILE_NAMES)}, each once, and besides them "
        f"only {', '.join(OPTIONAL_FILES)}."
    )


class _OpenFile:
    """One file being written: its declaration, what arrived, and the hash of it."""

    def __init__(self, folder: Path, spec: FileSpec) -> None:
        self.spec = spec
        self.size = 0
        self.digest = hashlib.sha256()
        self.fd = create(folder / spec.name)

    def append(self, data: bytes | memoryview) -> None:
        write_all(self.fd, data)
        self.digest.update(data)
        self.size += len(data)

    def check_complete(self) -> None:
        if self.size != self.spec.size:
            raise UploadRejected(
                f"{self.spec.name} has {self.spec.size} declared bytes but {self.size} arrived."
            )
        if self.digest.hexdigest() != self.spec.sha256:
            raise ChecksumMismatch(f"{self.spec.name} does not have its declared sha256; send it again.")

    def close(self) -> None:
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)


class Staging:
    """A private folder filled by one upload, used by one thread at a time; as a context manager it cleans up.

    Any rejected or failed step discards it at once.
    """

    def __init__(self, folder: Path, files: Sequence[FileSpec]) -> None:
        self.folder = folder
        self.files = tuple(sorted(files, key=lambda file: file.name))
        self.sealed = False
        self._open: dict[str, _OpenFile] = {}
        with self._step("creating the upload's files"):
            os.mkdir(folder, 0o700)
            for spec in self.files:
                self._open[spec.name] = _OpenFile(folder, spec)

    def write(self, name: str, offset: int, data: bytes | memoryview) -> None:
        """Appends `data` to a file, where `offset` must be the bytes it already has.

        Raises UploadRejected for a wrong name or offset or a byte too many, and StoreUnavailable.
        """
        with self._step("writing an upload"):
            file = self._open.get(name)
            if file is None:
                raise UploadRejected(
                    f"{show(name)} is no open file of this upload; it was not declared or is sealed."
                )
            if offset != file.size:
                raise UploadRejected(
                    f"{name} continues at byte {file.size}, not {offset}; send chunks in order."
                )
            if file.size + len(data) > file.spec.size:
                raise UploadRejected(f"{name} was declared with {file.spec.size} bytes but more arrived.")
            file.append(data)

    def seal(self) -> None:
        """Checks sizes and hashes and makes the files durable; no more writes.

        Raises UploadRejected, ChecksumMismatch or StoreUnavailable.
        """
        with self._step("syncing an upload"):
            for file in self._open.values():
                file.check_complete()
            for file in self._open.values():
                os.fsync(file.fd)
            self._close()
            self.sealed = True

    def discard(self) -> None:
        """Removes everything; harmless when already gone or committed."""
        self._close()
        self.sealed = False
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _close(self) -> None:
        for file in self._open.values():
            file.close()
        self._open.clear()

    @contextmanager
    def _step(self, doing: str) -> Iterator[None]:
        try:
            with storage_errors(doing):
                yield
        except BaseException:
            self.discard()
            raise
