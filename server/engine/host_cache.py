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

    def prefetch(self, digest: str) -> None:
        """Starts to read unless the adapter is here or on its way."""
        if digest not in self._blobs and digest not in self._loading:
            self._loading[digest] = self._readers.submit(self._timed_load, digest)

    def get(self, digest: str) -> AdapterBlob | None:
        """The adapter, or None while it is being read. Raises what the read raised, once."""
        self.prefetch(digest)
        future = self._loading.get(digest)
        if future is not None:
            if not future.done():
                return None
            del self._loading[digest]
            blob, seconds = future.result()
            self.read_seconds += seconds
            self._keep(digest, blob)
        self._blobs.move_to_end(digest)
        return self._blobs[digest]

    def close(self) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _timed_load(self, digest: str) -> tuple[AdapterBlob, float]:
        begun = time.monotonic()
        return self._load(digest), time.monotonic() - begun

    def _keep(self, digest: str, blob: AdapterBlob) -> None:
        """The newest stays even if it is larger than the cache: someone is about to use it."""
        self._blobs[digest] = blob
        while self.num_bytes > self._max_bytes and len(self._blobs) > 1:
            self._blobs.popitem(last=False)
