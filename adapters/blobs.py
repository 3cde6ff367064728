"""Adapters by content: one immutable folder per digest, shared by all the versions that name it."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable
from pathlib import Path

from adapters.durable import make_folder, sync_folder
from adapters.errors import InvalidAdapter
from adapters.files import describe
from adapters.manifest import Manifest

MANIFEST_NAME = "manifest.json"
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")
_PREFIX = re.compile(r"[0-9a-f]{2}\Z")
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST)


class Blobs:
    """blobs/<first two digits>/<digest>/; what is removed goes through `trash` so it vanishes in one step."""

    def __init__(self, folder: Path, trash: Path) -> None:
        self._root = folder
        self._trash = trash

    def folder(self, digest: str) -> Path:
        """Where the adapter's files are, if it is stored."""
        assert _DIGEST.match(digest), f"{digest!r} is no digest"
        return self._root / digest[:2] / digest

    def place(self, staged: Path, manifest: Manifest) -> bool:
        """Moves a complete, synced folder in; False if its content is there already. Heals a damaged one.

        Durable on return. Raises OSError.
        """
        final = self.folder(manifest.digest)
        make_folder(final.parent)
        placed = self._move_in(staged, final)
        if not placed and not is_intact(final, manifest):
            shutil.rmtree(self.discard(manifest.digest), ignore_errors=True)
            placed = self._move_in(staged, final)
        sync_folder(final.parent)
        return placed

    def manifest(self, digest: str) -> Manifest:
        """Reads a stored manifest; raises OSError or ValueError."""
        return Manifest.from_json((self.folder(digest) / MANIFEST_NAME).read_text())

    def move_in(self, folder: Path, digest: str) -> None:
        """Moves a folder that is known to be the digest's to where it is looked for. Raises OSError."""
        final = self.folder(digest)
        make_folder(final.parent)
        self._move_in(folder, final)

    def size(self, digest: str) -> int:
        """Bytes of an adapter's files, and of what was made of them by now."""
        return sum(map(_file_bytes, self.folder(digest).rglob("*")))

    def sizes(self) -> list[tuple[str, int]]:
        """Digest and bytes of everything stored, the one placed longest ago first."""
        stored = sorted(self._stored(), key=lambda digest: self.folder(digest).stat().st_mtime)
        return [(digest, self.size(digest)) for digest in stored]

    def discard(self, digest: str) -> Path:
        """Makes an adapter vanish from its place and returns where it went. Raises OSError."""
        gone = self._trash / f"{digest}-{uuid.uuid4().hex}"
        os.rename(self.folder(digest), gone)
        return gone

    def discard_unless(self, keep: Callable[[str], bool]) -> dict[str, Path]:
        """Discards each stored adapter that `keep` refuses: digest -> where it went. Raises OSError."""
        return {digest: self.discard(digest) for digest in self._stored() if not keep(digest)}

    def _stored(self) -> list[str]:
        prefixes = [prefix for prefix in os.listdir(self._root) if _PREFIX.match(prefix)]
        stored = [digest for prefix in prefixes for digest in os.listdir(self._root / prefix)]
        return sorted(filter(_DIGEST.match, stored))

    def _move_in(self, staged: Path, final: Path) -> bool:
        try:
            os.rename(staged, final)
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
        return True


def _file_bytes(path: Path) -> int:
    """0 for folders, and for what was given its name in the meantime."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def empty(folder: Path) -> None:
    """Removes everything inside a folder of ours, as far as the disk lets us."""
    for entry in os.listdir(folder):
        shutil.rmtree(folder / entry, ignore_errors=True)


def is_intact(folder: Path, manifest: Manifest) -> bool:
    """Whether the folder holds exactly the bytes that the manifest names."""
    try:
        Manifest.from_json((folder / MANIFEST_NAME).read_text())
        return all(describe(folder / file.name) == file for file in manifest.files)
    except (InvalidAdapter, OSError, ValueError):
        return False
