"""The live versions, in memory: what the records on disk say, ready for every request to read."""

from __future__ import annotations

from collections.abc import Iterable
from threading import Lock

from adapters.names import Reference
from adapters.records import Found, Record, record_key


class Index:
    """Thread-safe; its lock is never held across a disk operation."""

    def __init__(self, found: Iterable[Found]) -> None:
        self._lock = Lock()
        # tenant -> name -> live records, oldest first
        self._live: dict[str, dict[str, tuple[Record, ...]]] = {}
        # record key -> highest version number ever used, deleted ones included
        self._last: dict[str, int] = {}
        for item in found:
            self._last[item.key] = max(item.version, self._last.get(item.key, 0))
            if item.record is not None:
                self.add(item.record)

    def take_version(self, tenant: str, name: str) -> int:
        """A number no version of this name ever had; taken for good, even if nothing comes of it."""
        key = record_key(tenant, name)
        with self._lock:
            self._last[key] = self._last.get(key, 0) + 1
            return self._last[key]

    def add(self, record: Record) -> None:
        """Makes a version visible."""
        with self._lock:
            names = self._live.setdefault(record.tenant, {})
            records = {item.version: item for item in (*names.get(record.name, ()), record)}
            names[record.name] = tuple(records[version] for version in sorted(records))

    def remove(self, record: Record) -> None:
        """Makes a version invisible."""
        with self._lock:
            names = self._live[record.tenant]
            rest = tuple(item for item in names[record.name] if item.version != record.version)
            if rest:
                names[record.name] = rest
            else:
                del names[record.name]

    def matching(self, tenant: str, reference: Reference) -> tuple[Record, ...]:
        """The one version a reference gives, or every live version of its name, oldest first."""
        with self._lock:
            records = self._live.get(tenant, {}).get(reference.name, ())
        if reference.version is None:
            return records
        return tuple(record for record in records if record.version == reference.version)

    def after(self, tenant: str, name: str, version: int, count: int) -> list[Record]:
        """The next `count` live versions after (name, version), by name, then version."""
        with self._lock:
            names = dict(self._live.get(tenant, {}))
        chosen: list[Record] = []
        for each in sorted(each for each in names if each >= name):
            chosen += [record for record in names[each] if (record.name, record.version) > (name, version)]
            if len(chosen) >= count:
                break
        return chosen[:count]

    def digests(self) -> set[str]:
        """Every adapter that some live version names."""
        with self._lock:
            return {
                record.digest
                for names in self._live.values()
                for records in names.values()
                for record in records
            }
