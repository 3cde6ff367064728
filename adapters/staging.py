"""An upload on its way in: declared first, then streamed, hashed and sealed.

<folder>/upload.json   the declaration, so that a server that was restarted can go on
<folder>/files/        the adapter's files as far as they have come

open --write*--> full --verify--> verified --sync--> sealed --(store.commit)--> gone
   an error of the sender, or discard --> gone, bytes removed
   the stream breaks --> suspended --(the next stream)--> open
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Self

from adapters.declaration import Declaration
from adapters.durable import storage_errors, sync_folder, write_file
from adapters.errors import UploadIncomplete, UploadRejected, UploadTaken
from adapters.incoming import IncomingFile
from adapters.manifest import FileSpec
from adapters.strict_json import show

DECLARATION_NAME = "upload.json"


class Staging:
    """A private folder filled by one upload, which one stream at a time may write.

    Any rejected or failed step discards it at once; as a context manager it is discarded at the end.
    """

    def __init__(self, root: Path, declaration: Declaration) -> None:
        self.declaration = declaration
        self.sealed = False
        self._root = root
        self._lock = RLock()
        self._writer = 0
        self._gone = self._verified = False
        self._files = {spec.name: IncomingFile(self.folder / spec.name, spec) for spec in declaration.files}

    @classmethod
    def create(cls, root: Path, declaration: Declaration) -> Staging:
        """A new one; durable enough to be found again. Raises StoreUnavailable."""
        staging = cls(root, declaration)
        with staging._step("creating the upload's files"):
            os.mkdir(root, 0o700)
            os.mkdir(staging.folder, 0o700)
            for file in staging._files.values():
                file.create()
            write_file(root / DECLARATION_NAME, json.dumps(asdict(declaration)).encode())
            sync_folder(root)
        return staging

    @classmethod
    def reopen(cls, root: Path) -> Staging:
        """What another process began. Raises OSError or ValueError; nothing is removed."""
        declaration = Declaration.from_json((root / DECLARATION_NAME).read_text())
        staging = cls(root, declaration)
        for file in staging._files.values():
            file.find()
        return staging

    @property
    def folder(self) -> Path:
        """Where the files are."""
        return self._root / "files"

    @property
    def files(self) -> tuple[FileSpec, ...]:
        return self.declaration.files

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes that have come, by file."""
        return {name: file.size for name, file in self._files.items()}

    @property
    def is_suspended(self) -> bool:
        return not self._writer

    def attach(self, writer: int) -> None:
        """From now on only this writer (a number above 0) may write; whoever did gets UploadTaken."""
        with self._lock:
            self._writer = writer

    def write(self, name: str, offset: int, data: bytes | memoryview, writer: int = 0) -> None:
        """Appends `data` to a file, where `offset` must be the bytes it already has.

        Raises UploadIncomplete, which changes nothing; UploadRejected for a wrong name or a byte too many,
        UploadTaken and StoreUnavailable.
        """
        with self._lock:
            self._check_writer(writer)
            self._check_offset(name, offset)
            with self._step("writing an upload"):
                self._write(name, data)

    def verify(self, writer: int = 0) -> None:
        """Checks sizes and hashes, and leaves the files alone in their folder; no more writes.

        Raises UploadIncomplete, which changes nothing; ChecksumMismatch, UploadTaken or StoreUnavailable.
        """
        with self._lock:
            self._check_writer(writer)
            for file in self._files.values():
                file.check_size()
            with self._step("reading an upload"):
                for file in self._files.values():
                    file.check_content()
                self._remove_leavings()
                self._verified = True

    def sync(self) -> None:
        """Makes the verified files durable, while others may read them and write beside them.

        Raises UploadRejected where they are gone, or StoreUnavailable; then it is for the caller to discard
        them, once nobody else is at work on them.
        """
        with self._lock, storage_errors("syncing an upload"):
            if self._gone or not self._verified:
                raise UploadRejected("The upload is not here whole; upload the adapter again.")
            for file in self._files.values():
                file.sync()
            self._close()
            self.sealed = True

    def seal(self, writer: int = 0) -> None:
        """Verifies and syncs. Raises what `verify` raises."""
        with self._lock:
            self.verify(writer)
            with self._step("syncing an upload"):
                self.sync()

    def suspend(self, writer: int) -> None:
        """The stream ended early: the files are closed and wait for another."""
        with self._lock:
            if self._writer == writer:
                self._writer = 0
                self._close()

    def discard(self) -> None:
        """Removes everything; harmless when already gone or committed."""
        with self._lock:
            self._close()
            self._gone, self.sealed = True, False
            shutil.rmtree(self._root, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _write(self, name: str, data: bytes | memoryview) -> None:
        file = self._files.get(name)
        if file is None or self._gone or self._verified:
            raise UploadRejected(
                f"{show(name)} is no open file of this upload; it was not declared or is sealed."
            )
        if file.size + len(data) > file.spec.size:
            raise UploadRejected(f"{name} was declared with {file.spec.size} bytes but more arrived.")
        file.write(data)

    def _remove_leavings(self) -> None:
        """What was made beside the files by a check or a commit that was broken off."""
        for entry in os.listdir(self.folder):
            path = self.folder / entry
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif entry not in self._files:
                path.unlink()

    def _check_offset(self, name: str, offset: int) -> None:
        file = self._files.get(name)
        if file is not None and offset != file.size:
            raise UploadIncomplete(f"{name} continues at byte {file.size}, not {offset}; send it in order.")

    def _check_writer(self, writer: int) -> None:
        if writer != self._writer:
            raise UploadTaken("Another stream goes on with this upload; this one is over.")

    def _close(self) -> None:
        for file in self._files.values():
            file.close()

    @contextmanager
    def _step(self, doing: str) -> Iterator[None]:
        try:
            with storage_errors(doing):
                yield
        except BaseException:
            self.discard()
            raise
