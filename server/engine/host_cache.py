"""Adapters in host memory: read by threads, one read for each digest, oldest out first by bytes."""

import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from server.model.adapter import AdapterBlob


class HostCache:
    """`load(digest)` runs on reader threads; everything else on the engine's thread alone."""

    def __init__(self, load: Callable[[str], AdapterBlob], max_bytes: int, num_readers: int = 2) -> None:
        self._load = load
        self._max_bytes = max_bytes
        self._readers = ThreadPoolExecutor(num_readers, thread_name_prefix="adapter-reader")
        self._blobs: OrderedDict[str, AdapterBlob] = OrderedDict()
        self._loading: dict[str, Future[tuple[AdapterBlob, float]]] = {}
        # Spent by the readers, over all reads.
        self.read_seconds = 0.0

    @property
    def num_bytes(self) -> int:
        return sum(blob.num_bytes for blob in self._blobs.values())

    def __contains__(self, digest: str) -> bool:
        """Whether `get` would have it now."""
        return digest in self._blobs

    def prefetch(self, digest: str) -> None:
        """Starts to read unless the adapter is here or on its way; a read that failed is begun again."""
        future = self._loading.get(digest)
        if digest not in self._blobs and (future is None or _has_failed(future)):
            self._loading[digest] = self._readers.submit(self._timed_load, digest)

    def settle(self) -> None:
        """Moves what the readers have finished into the cache, so that its bytes are counted."""
        for digest, future in list(self._loading.items()):
            if future.done() and not _has_failed(future):
                self._take_in(digest)

    def get(self, digest: str) -> AdapterBlob | None:
        """The adapter, or None while it is being read. Raises what the read raised, once."""
        if digest not in self._blobs:
            if digest not in self._loading:
                self.prefetch(digest)
            if not self._loading[digest].done():
                return None
            self._take_in(digest)
        self._blobs.move_to_end(digest)
        return self._blobs[digest]

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _timed_load(self, digest: str) -> tuple[AdapterBlob, float]:
        begun = time.monotonic()
        return self._load(digest), time.monotonic() - begun

    def _take_in(self, digest: str) -> None:
        blob, seconds = self._loading.pop(digest).result()
        self.read_seconds += seconds
        self._keep(digest, blob)

    def _keep(self, digest: str, blob: AdapterBlob) -> None:
        """The newest stays even if it is larger than the cache: someone is about to use it."""
        self._blobs[digest] = blob
        while self.num_bytes > self._max_bytes and len(self._blobs) > 1:
            self._blobs.popitem(last=False)


def _has_failed(future: Future[tuple[AdapterBlob, float]]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)
