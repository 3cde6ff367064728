"""Adapters in an S3-compatible bucket that several servers share, with a copy on each server's disk.

    <prefix>/blobs/<digest>/<file>   immutable; the manifest is written last and removed first
    <prefix>/refs/<key>.json         all that is known of one name

Blobs are created by If-None-Match and documents replaced by If-Match, so of any number of servers one wins.
Every object is stored with its sha256, which the bucket checks on arrival.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from time import monotonic, time

from adapters.backend import IsHeld, Ref, RefChanged
from adapters.blobs import MANIFEST_NAME
from adapters.cache import BlobCache
from adapters.manifest import Manifest
from adapters.objects import Exists, Missing, Objects
from adapters.tombstones import GRACE_SECONDS


class BucketBackend:
    """A Backend in a bucket; `cache` holds the blobs that this server uses."""

    is_shared = True

    def __init__(self, objects: Objects, cache: BlobCache, grace: float = GRACE_SECONDS) -> None:
        self._objects = objects
        self._cache = cache
        self._grace = grace
        self._looked_at = -grace

    def put_blob(self, staged: Path, manifest: Manifest) -> None:
        for file in manifest.files:
            self._put_file(f"blobs/{manifest.digest}/{file.name}", staged / file.name, file.sha256)
        # Always anew: its age is what keeps another server from collecting the blob.
        text = (staged / MANIFEST_NAME).read_bytes()
        self._objects.put(f"blobs/{manifest.digest}/{MANIFEST_NAME}", text)
        self._cache.adopt(staged, manifest)

    def get_blob(self, digest: str, is_held: IsHeld) -> Path:
        return self._cache.get(digest, self._fetch, is_held)

    def read_file(self, digest: str, name: str) -> bytes:
        copy = self._cache.find(digest)
        if copy is not None:
            return (copy / name).read_bytes()
        return self._objects.get(f"blobs/{digest}/{name}").data

    def collect(self, keep: IsHeld, is_held: IsHeld, deletions: Mapping[str, float]) -> list[str]:
        """The copies of deleted adapters go at once; the bucket is looked through once per grace.

        There, a blob that no document names may be one that another server is about to name, or one of which
        another server has not heard that it was deleted: it goes a grace after both.
        """
        gone = self._cache.discard_unless(lambda digest: keep(digest) or is_held(digest))
        if monotonic() - self._looked_at < self._grace:
            return gone
        self._looked_at = monotonic()
        return sorted({*gone, *self._collect_bucket(keep, deletions)})

    def get_ref(self, key: str) -> Ref | None:
        try:
            found = self._objects.get(f"refs/{key}.json")
        except Missing:
            return None
        return Ref(key, found.data, found.etag)

    def changed_refs(self, known: Mapping[str, str]) -> Iterator[str]:
        for listed in self._objects.list("refs/"):
            key = listed.key.removeprefix("refs/").removesuffix(".json")
            if known.get(key) != listed.etag:
                yield key

    def cas_ref(self, key: str, data: bytes, etag: str) -> str:
        try:
            return self._objects.put(f"refs/{key}.json", data, etag=etag)
        except (Exists, Missing) as error:
            raise RefChanged(key) from error

    def close(self) -> None:
        self._cache.close()

    def _put_file(self, key: str, path: Path, sha256: str) -> None:
        with path.open("rb") as file:
            try:
                self._objects.put(key, file, etag="", sha256=sha256)
            except Exists:
                # Content is its name: only a damaged object can differ, and this heals it.
                if self._objects.sha256(key) != sha256:
                    self._objects.put(key, file, sha256=sha256)

    def _fetch(self, digest: str, folder: Path) -> None:
        """A blob's files into an empty folder; whether they are the digest's is for the cache to say."""
        text = self._objects.get(f"blobs/{digest}/{MANIFEST_NAME}").data
        (folder / MANIFEST_NAME).write_bytes(text)
        for file in Manifest.from_json(text.decode()).files:
            self._objects.download(f"blobs/{digest}/{os.path.basename(file.name)}", folder / file.name)

    def _collect_bucket(self, keep: IsHeld, deletions: Mapping[str, float]) -> list[str]:
        def is_due(digest: str, written_at: float) -> bool:
            return time() - max(written_at, deletions.get(digest, 0.0)) >= self._grace and not keep(digest)

        found = self._written("blobs/")
        return [digest for digest in found if is_due(digest, found[digest]) and self._remove(digest, is_due)]

    def _written(self, prefix: str) -> dict[str, float]:
        """Digest -> when the newest of its objects was written, in seconds since the epoch."""
        found: dict[str, float] = {}
        for listed in self._objects.list(prefix):
            digest = listed.key.split("/")[1]
            found[digest] = max(listed.modified.timestamp(), found.get(digest, 0.0))
        return found

    def _remove(self, digest: str, is_due: Callable[[str, float], bool]) -> bool:
        """Whether it went; asked again, as it may have been uploaded anew while the others were removed."""
        prefix = f"blobs/{digest}/"
        written = self._written(prefix)
        if digest not in written or not is_due(digest, written[digest]):
            return False
        names = [listed.key for listed in self._objects.list(prefix)]
        for key in sorted(names, key=lambda key: not key.endswith(MANIFEST_NAME)):
            self._objects.delete(key)
        return True
