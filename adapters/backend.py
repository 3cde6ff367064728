"""Where adapters are kept: immutable blobs by digest, and small documents changed by compare-and-set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from adapters.manifest import Manifest

IsHeld = Callable[[str], bool]


class Ref(NamedTuple):
    """A document as it is stored; the etag changes with every change of it."""

    key: str
    data: bytes
    etag: str


class RefChanged(Exception):
    """The document is not the one that the etag names; nothing was written."""


class Backend(Protocol):
    """Thread-safe. Whatever returns is durable; every method raises OSError when the storage fails."""

    @property
    def is_shared(self) -> bool:
        """Whether other servers change what is stored, and blobs are fetched before they are used."""

    def put_blob(self, staged: Path, manifest: Manifest) -> None:
        """Stores a checked folder under its digest, unless it is there whole. The folder may be moved."""

    def get_blob(self, digest: str, is_held: IsHeld) -> Path:
        """The local folder with a blob's files; what `is_held` names is not put out to make room."""

    def read_file(self, digest: str, name: str) -> bytes:
        """One small file of a blob; raises FileNotFoundError if the blob has none of that name."""

    def collect(self, keep: IsHeld, is_held: IsHeld, deletions: Mapping[str, float]) -> list[str]:
        """Removes blobs that no document names any more (`keep`) and nobody holds: their digests.

        deletions: digest -> when a document named it last, in seconds since the epoch, of what went lately.
        """

    def get_ref(self, key: str) -> Ref | None:
        """A document as it is now."""

    def changed_refs(self, known: Mapping[str, str]) -> Iterator[str]:
        """Keys of all documents but those that surely still have the known etag (key -> etag)."""

    def cas_ref(self, key: str, data: bytes, etag: str) -> str:
        """Replaces the document that has this etag ("": creates it) and returns the new etag.

        Raises RefChanged.
        """

    def close(self) -> None:
        """Lets go of what only one process may hold."""
