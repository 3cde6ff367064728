"""Adapters in host memory: read by threads in the order asked for, one read for each digest.

asked for -> reading -> HERE, least recently used out first
                          |
          never while pinned or while a copy to the device reads it;
          those asked for go last, and no more are read than the memory holds
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import RLock

import torch
from torch import Tensor

from server.engine.host_pool import HostPool, PlainPool
from server.model.adapter import AdapterBlob, Allocate

Load = Callable[[str, Allocate], AdapterBlob]


@dataclass
class _Kept:
    """holds: copies to the device that are under way."""

    blob: AdapterBlob
    holds: int = 0


class HostCache:
    """`load(digest, allocate)` runs on reader threads; everything else on the engine's thread alone.

    notify: called on a reader's thread when a read has ended.
    """

    def __init__(
        self,
        load: Load,
        max_bytes: int,
        num_readers: int = 2,
        pool: HostPool | None = None,
        notify: Callable[[], None] = lambda: None,
    ) -> None:
        # All that were taken in, and what the readers spent on them.
        self.num_read = 0
        self.read_seconds = 0.0
        self._max_bytes = max_bytes
        self._load = load
        self._num_readers = num_readers
        self._readers = ThreadPoolExecutor(num_readers, thread_name_prefix="adapter-reader")
        self._notify = notify
        # Readers make room for what they read.
        self._lock = RLock()
        self._pool = pool or PlainPool(max_bytes)
        # Least recently used first.
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._pinned: set[str] = set()
        self._asked: dict[str, None] = {}
        self._loading: dict[str, Future[tuple[AdapterBlob, float]]] = {}
        # Who came or went since somebody asked.
        self._moved: set[str] = set()

    @property
    def num_bytes(self) -> int:
        with self._lock:
            return sum(kept.blob.num_bytes for kept in self._kept.values())

    @property
    def unpinned_bytes(self) -> int:
        """Of the size, what pinned adapters leave."""
        with self._lock:
            return self._max_bytes - sum(self._kept[each].blob.num_bytes for each in self._pinned)

    def __contains__(self, digest: str) -> bool:
        """Whether `get` would have it now."""
        return digest in self._kept

    def take_moved(self) -> set[str]:
        """Who came or went since the last call."""
        with self._lock:
            moved, self._moved = self._moved, set()
        return moved

    def ask(self, digests: Iterable[str]) -> None:
        """What is wanted now, in the order in which it will be used; replaces what was asked before."""
        self._asked = dict.fromkeys(digests)
        for digest, future in list(self._loading.items()):
            # Nobody is left to be told.
            if digest not in self._asked and _has_failed(future):
                del self._loading[digest]
        self._read_on()

    def settle(self) -> bool:
        """Takes in what the readers have finished, and has them read on; whether there was anything."""
        done = [
            digest for digest, future in self._loading.items() if future.done() and not _has_failed(future)
        ]
        for digest in done:
            self._take_in(digest)
        if done:
            self._read_on()
        return bool(done)

    def get(self, digest: str) -> AdapterBlob | None:
        """The adapter, or None while it is not here. Raises what its read raised, once.

        What is asked for is read in its turn, and anything else at once. Its bytes may go at any time: who
        looks at them takes hold of them first.
        """
        if (blob := self.find(digest)) is not None:
            return blob
        if digest not in self._loading:
            if digest in self._asked:
                self._read_on()
            else:
                self._begin(digest)
        if digest not in self._loading or not self._loading[digest].done():
            return None
        self._take_in(digest)
        return self.find(digest)

    def hold(self, digest: str) -> AdapterBlob | None:
        """The adapter, whose bytes stay where they are until `release`; None if it is not here."""
        with self._lock:
            kept = self._kept.get(digest)
            if kept is None:
                return None
            kept.holds += 1
            return kept.blob

    def release(self, digest: str) -> None:
        with self._lock:
            self._kept[digest].holds -= 1

    def pin(self, digest: str) -> bool:
        """It stays until `unpin`; False if it is not here."""
        with self._lock:
            if digest in self._kept:
                self._pinned.add(digest)
            return digest in self._pinned

    def unpin(self, digest: str) -> None:
        with self._lock:
            self._pinned.discard(digest)

    def close(self) -> None:
        """Reads that have not begun never will."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def find(self, digest: str) -> AdapterBlob | None:
        """The adapter if it is here, as `get`; asks for nothing."""
        with self._lock:
            if digest not in self._kept:
                return None
            self._kept.move_to_end(digest)
            return self._kept[digest].blob

    def _read_on(self) -> None:
        """As many reads at once as there are readers, while what is asked for fits."""
        with self._lock:
            here = sum(self._kept[each].blob.num_bytes for each in self._asked if each in self._kept)
        under_way = sum(not future.done() for future in self._loading.values())
        for digest in self._asked:
            if here >= self._max_bytes or under_way >= self._num_readers:
                return
            if digest not in self._kept and digest not in self._loading:
                self._begin(digest)
                under_way += 1

    def _begin(self, digest: str) -> None:
        self._loading[digest] = future = self._readers.submit(self._timed_load, digest)
        future.add_done_callback(lambda _: self._notify())

    def _timed_load(self, digest: str) -> tuple[AdapterBlob, float]:
        begun = time.monotonic()
        taken: list[Tensor] = []

        def allocate(num_elements: int, dtype: torch.dtype) -> Tensor:
            taken.append(self._make_room(digest, num_elements, dtype))
            return taken[-1]

        kept: Tensor | None = None
        try:
            blob = self._load(digest, allocate)
            kept = blob.flat
            return blob, time.monotonic() - begun
        finally:
            with self._lock:
                for tensor in taken:
                    if tensor is not kept:
                        self._pool.give_back(tensor)

    def _make_room(self, digest: str, num_elements: int, dtype: torch.dtype) -> Tensor:
        """Nobody goes who is wanted before; if that leaves no room, it is found beyond the pool."""
        with self._lock:
            while (tensor := self._pool.take(num_elements, dtype)) is None:
                later = self._evictable(self._after(digest))
                if not later:
                    return self._pool.take_more(num_elements, dtype)
                self._evict(later[0])
        return tensor

    def _take_in(self, digest: str) -> None:
        blob, seconds = self._loading.pop(digest).result()
        self.num_read += 1
        self.read_seconds += seconds
        with self._lock:
            self._kept[digest] = _Kept(blob)
            self._moved.add(digest)
            # One of them stays whatever the size: someone is about to use it.
            while self.num_bytes > self._max_bytes and len(idle := self._evictable(list(self._asked))) > 1:
                self._evict(idle[0])

    def _after(self, digest: str) -> list[str]:
        """What is asked for after it."""
        asked = list(self._asked)
        return asked[asked.index(digest) + 1 :] if digest in self._asked else []

    def _evictable(self, asked: list[str]) -> list[str]:
        """Who may go: first the least recently used whom nobody asks for, then `asked` from its end."""
        unasked = [each for each in self._kept if each not in self._asked]
        return [each for each in (*unasked, *reversed(asked)) if each in self._kept and self._may_go(each)]

    def _may_go(self, digest: str) -> bool:
        return digest not in self._pinned and not self._kept[digest].holds

    def _evict(self, digest: str) -> None:
        self._pool.give_back(self._kept.pop(digest).blob.flat)
        self._moved.add(digest)


def _has_failed(future: Future[tuple[AdapterBlob, float]]) -> bool:
    return future.done() and (future.cancelled() or future.exception() is not None)
