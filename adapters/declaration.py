"""What an upload says before its first byte, and what of it is never taken."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from adapters.errors import UploadRejected, UploadTooLarge
from adapters.files import CONFIG_NAME, FILE_NAMES, MAX_CONFIG_BYTES, OPTIONAL_FILES
from adapters.manifest import FileSpec, content_digest
from adapters.strict_json import show

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_LIMITS = {CONFIG_NAME: MAX_CONFIG_BYTES, **OPTIONAL_FILES}


@dataclass(frozen=True)
class Declaration:
    """Whose upload it is, under which id, and its files by name; `begun_at` in seconds since the epoch.

    allow_base_mismatch: the uploader knows that it was trained over another base.
    """

    tenant: str
    name: str
    upload_id: str
    files: tuple[FileSpec, ...]
    begun_at: float
    allow_base_mismatch: bool = False

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """What the adapter's digest will be."""
        return content_digest(self.files)

    @staticmethod
    def from_json(text: str) -> Declaration:
        """Raises ValueError."""
        try:
            fields = json.loads(text)
            fields["files"] = tuple(FileSpec(**file) for file in fields["files"])
            declaration = Declaration(**fields)
            check_files(declaration.files)
        except (KeyError, TypeError, UploadRejected) as error:
            raise ValueError("no declaration of an upload") from error
        return declaration


def check_files(files: Sequence[FileSpec], max_bytes: int | None = None) -> None:
    """Raises UploadRejected or UploadTooLarge if these files would never be taken."""
    names = sorted(file.name for file in files)
    if sorted(set(names).difference(OPTIONAL_FILES)) != sorted(FILE_NAMES) or len(set(names)) < len(names):
        raise UploadRejected(
            f"The upload declares {show(names)}; declare exactly {' and '.join(FILE_NAMES)}, and besides "
            f"them only {', '.join(OPTIONAL_FILES)}."
        )
    for file in files:
        _check_file(file)
    total = sum(file.size for file in files)
    if max_bytes is not None and total > max_bytes:
        raise UploadTooLarge(
            f"The adapter has {total} bytes; at most {max_bytes} are taken. Train it with a lower rank."
        )


def _check_file(file: FileSpec) -> None:
    if file.size < 1:
        raise UploadRejected(f"{file.name} is declared with {file.size} bytes; declare its true size.")
    if not _SHA256.match(file.sha256):
        raise UploadRejected(f"{file.name} is declared without a sha256; declare 64 lower-case hex digits.")
    limit = _LIMITS.get(file.name)
    if limit is not None and file.size > limit:
        raise UploadRejected(f"{file.name} is declared with {file.size} bytes; at most {limit} are taken.")
