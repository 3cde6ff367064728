"""The documents of all names: read once, kept in memory, changed by compare-and-set."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from adapters.backend import Backend, RefChanged
from adapters.durable import storage_errors
from adapters.entry import Entry, entry_key
from adapters.errors import AdapterError, AdapterNotFound, StoreUnavailable
from adapters.index import Index
from adapters.names import Reference, check_tenant, parse_reference

MAX_TRIES = 50
NUM_LOCKS = 64
NUM_READERS = 16
_log = logging.getLogger(__name__)


class Ledger:
    """Thread-safe. What another server changed is seen by `refresh`, by every change, and by a miss."""

    def __init__(self, backend: Backend) -> None:
        self.index = Index()
        self._backend = backend
        # Keys of documents that were read anew and that no refresh has told of.
        self._untold: set[str] = set()
        # One name is read, changed and remembered by one thread at a time: its memory never goes back.
        self._locks = [Lock() for _ in range(NUM_LOCKS)]

    def find(self, tenant: str, reference: str | Reference) -> Entry:
        """The entry in which the reference means at least one live version; raises AdapterNotFound."""
        check_tenant(tenant)
        wanted = parse_reference(str(reference))
        entry, _ = self.index.get(tenant, wanted.name)
        if not entry.matching(wanted):
            entry = self.fresh(tenant, wanted.name)
        if not entry.matching(wanted):
            raise AdapterNotFound(f"There is no adapter {wanted}; list the adapters to see what there is.")
        return entry

    def fresh(self, tenant: str, name: str) -> Entry:
        """The entry as the storage has it now."""
        key = entry_key(tenant, name)
        with self._lock(key), storage_errors("reading a name"):
            self._read(key)
            self._refuse_damaged(key, name)
        return self.index.get(tenant, name)[0]

    def update(self, tenant: str, name: str, change: Callable[[Entry], Entry]) -> tuple[Entry, Entry]:
        """Replaces an entry by what `change` makes of it: before, after. Durable on return.

        `change` is called again whenever another server was faster. What it raises is raised only if it
        holds for the newest entry.
        """
        key = entry_key(tenant, name)
        with self._lock(key), storage_errors("writing a name"):
            for attempt in range(MAX_TRIES):
                self._refuse_damaged(key, name)
                before, etag = self.index.get(tenant, name)
                try:
                    after = change(before)
                    if after != before:
                        self.index.put(after, self._backend.cas_ref(key, after.to_json(), etag))
                    return before, after
                except RefChanged:
                    self._read(key)
                    time.sleep(random.uniform(0, 0.002 * 2 ** min(attempt, 6)))
                except AdapterError:
                    if not self._read(key):
                        raise
        raise StoreUnavailable(f"Too many servers change {name} at once; try again.")

    def refresh(self) -> bool:
        """Takes in what other servers changed; whether there was anything since the last time."""
        with storage_errors("reading the names"):
            keys = self._backend.changed_refs(self.index.etags())
            if not self._backend.is_shared:
                for key in keys:
                    self._read_alone(key)
            else:
                # Each is a round trip to the bucket.
                with ThreadPoolExecutor(NUM_READERS, "names") as pool:
                    list(pool.map(self._read_alone, keys))
        told = frozenset(self._untold)
        self._untold -= told
        return bool(told)

    def _read_alone(self, key: str) -> None:
        with self._lock(key):
            self._read(key)

    def _refuse_damaged(self, key: str, name: str) -> None:
        """What may be repaired by hand is neither read as if it were empty nor overwritten."""
        if self.index.is_damaged(key):
            raise StoreUnavailable(f"The document of {name} ({key}) is damaged; restore it from a backup.")

    def _read(self, key: str) -> bool:
        """Takes one document in; whether it is another than the one known."""
        ref = self._backend.get_ref(key)
        if ref is None or self.index.etag(key) == ref.etag:
            return False
        try:
            entry = Entry.from_json(ref.data)
            if entry_key(entry.tenant, entry.name) != key:
                raise ValueError("it stands in another's place")
        except ValueError as error:
            _log.error("the document %s is damaged and not served: %s", key, error)
            self.index.skip(key, ref.etag)
        else:
            self.index.put(entry, ref.etag)
        self._untold.add(key)
        return True

    def _lock(self, key: str) -> Lock:
        return self._locks[int(key[:8], 16) % NUM_LOCKS]
