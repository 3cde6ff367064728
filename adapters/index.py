"""What the documents say, in memory: ready for every request to read, never a look at the storage."""

from __future__ import annotations

from collections import Counter
from threading import Lock

from adapters.entry import Entry, Record, entry_key
from adapters.names import Reference


class Index:
    """Thread-safe; its lock is never held across an operation of the storage."""

    def __init__(self) -> None:
        self._lock = Lock()
        # tenant -> name -> entry
        self._entries: dict[str, dict[str, Entry]] = {}
        self._etags: dict[str, str] = {}
        # How many live versions name a digest.
        self._digests: Counter[str] = Counter()
        # Entries with pins, of which there are few.
        self._pinned: dict[str, Entry] = {}
        # Entries with tombstones.
        self._buried: dict[str, Entry] = {}
        self._damaged: set[str] = set()

    def put(self, entry: Entry, etag: str) -> None:
        """Makes a document's newest state the one that is seen."""
        with self._lock:
            names = self._entries.setdefault(entry.tenant, {})
            before = names.get(entry.name, Entry(entry.tenant, entry.name))
            self._digests.update(record.digest for record in entry.records)
            self._digests.subtract(record.digest for record in before.records)
            names[entry.name] = entry
            key = entry_key(entry.tenant, entry.name)
            self._etags[key] = etag
            self._damaged.discard(key)
            self._pinned.pop(key, None)
            self._buried.pop(key, None)
            if entry.pins:
                self._pinned[key] = entry
            if entry.tombstones:
                self._buried[key] = entry

    def skip(self, key: str, etag: str) -> None:
        """Remembers a damaged document, so that it is not read again until it changes."""
        with self._lock:
            self._etags[key] = etag
            self._damaged.add(key)

    def is_damaged(self, key: str) -> bool:
        """Whether the newest document under this key could not be read."""
        with self._lock:
            return key in self._damaged

    def etags(self) -> dict[str, str]:
        """Key -> etag of every document seen."""
        with self._lock:
            return dict(self._etags)

    def etag(self, key: str) -> str:
        """The etag of a document seen, else ""."""
        with self._lock:
            return self._etags.get(key, "")

    def get(self, tenant: str, name: str) -> tuple[Entry, str]:
        """The entry with its etag; an empty one with "" for a name never used."""
        with self._lock:
            entry = self._entries.get(tenant, {}).get(name)
            if entry is None:
                return Entry(tenant, name), ""
            return entry, self._etags[entry_key(tenant, name)]

    def is_live(self, tenant: str, name: str, version: int) -> bool:
        return bool(self.get(tenant, name)[0].matching(Reference(name, version)))

    def entries(self, tenant: str) -> list[Entry]:
        """A tenant's names, sorted."""
        with self._lock:
            entries = list(self._entries.get(tenant, {}).values())
        return sorted(entries, key=lambda entry: entry.name)

    def after(self, tenant: str, name: str, version: int, count: int) -> list[tuple[Entry, Record]]:
        """The next `count` live versions after (name, version), by name, then version."""
        chosen: list[tuple[Entry, Record]] = []
        for entry in self.entries(tenant):
            if entry.name >= name and len(chosen) < count:
                chosen += [
                    (entry, record)
                    for record in entry.records
                    if (entry.name, record.version) > (name, version)
                ]
        return chosen[:count]

    def has(self, digest: str) -> bool:
        """Whether some live version names this adapter."""
        with self._lock:
            return self._digests[digest] > 0

    def pins(self) -> dict[str, str]:
        """Digest -> tier of every pinned version; the device's where there are several."""
        with self._lock:
            entries = list(self._pinned.values())
        found: dict[str, str] = {}
        for entry in entries:
            for version, tier in entry.pins.items():
                digest = entry.record(version).digest
                found[digest] = "device" if "device" in (tier, found.get(digest)) else tier
        return found

    def deletions(self) -> dict[str, float]:
        """Digest -> when a version of it was deleted last, in seconds since the epoch; of late deletions."""
        with self._lock:
            entries = list(self._buried.values())
        found: dict[str, float] = {}
        for tombstone in (each for entry in entries for each in entry.tombstones):
            found[tombstone.digest] = max(tombstone.deleted_at, found.get(tombstone.digest, 0.0))
        return found

    def usage(self, tenant: str) -> tuple[int, int]:
        """Live versions of a tenant, and their bytes."""
        records = [record for entry in self.entries(tenant) for record in entry.records]
        return len(records), sum(record.size for record in records)
