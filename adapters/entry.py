"""All that is known of one name, as one small document, changed whole by compare-and-set or not at all.

Versions, aliases and pins stand in the same document, so no order of calls, kills or replicas can leave an
alias that names a deleted version.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field, replace

from adapters.alias import Alias, AliasState, Share
from adapters.errors import AdapterNotFound, InvalidName, VersionInUse
from adapters.names import Reference, check_alias, check_name, check_tenant
from adapters.tombstones import Tombstone, bury

FORMAT = 1
TIERS = ("host", "device")
_DIGEST = re.compile(r"[0-9a-f]{64}\Z")


@dataclass(frozen=True)
class Record:
    """One live version; `created_at` in seconds since the epoch, `size` in bytes of all its files."""

    version: int
    digest: str
    created_at: float
    size: int


@dataclass(frozen=True)
class Entry:
    """A tenant's name: live versions oldest first, the highest number ever used, aliases, version -> tier,
    and what was deleted lately.
    """

    tenant: str
    name: str
    last_version: int = 0
    records: tuple[Record, ...] = ()
    aliases: dict[str, Alias] = field(default_factory=dict)
    pins: dict[int, str] = field(default_factory=dict)
    tombstones: tuple[Tombstone, ...] = ()

    @property
    def versions(self) -> set[int]:
        return {record.version for record in self.records}

    def record(self, version: int) -> Record:
        """Raises AdapterNotFound."""
        for record in self.records:
            if record.version == version:
                return record
        raise AdapterNotFound(f"There is no adapter {self.name}@{version}; list the adapters to see what is.")

    def matching(self, reference: Reference) -> tuple[Record, ...]:
        """The one version, every version of the name, or those an alias points at."""
        if reference.alias:
            wanted = self.aliases.get(reference.alias, Alias()).versions
        else:
            wanted = self.versions if reference.version is None else {reference.version}
        return tuple(record for record in self.records if record.version in wanted)

    def with_version(self, digest: str, size: int, now: float) -> Entry:
        """The same content as the newest live version is no new version."""
        if self.records and self.records[-1].digest == digest:
            return self
        record = Record(self.last_version + 1, digest, now, size)
        return replace(self, last_version=record.version, records=(*self.records, record))

    def without(self, gone: Collection[int], force: bool, now: float) -> Entry:
        """Without these versions and their pins; raises VersionInUse for one that an alias names."""
        held = {alias: state for alias, state in self.aliases.items() if not state.versions.isdisjoint(gone)}
        if held and not force:
            alias, state = min(held.items())
            version = min(state.versions.intersection(gone))
            raise VersionInUse(
                f"The alias {self.name}@{alias} points at version {version}; move the alias first, or delete "
                "with force."
            )
        aliases = self.aliases | {alias: state.without(gone, now) for alias, state in held.items()}
        records = tuple(record for record in self.records if record.version not in gone)
        pins = {version: tier for version, tier in self.pins.items() if version not in gone}
        graves = [Tombstone(r.version, r.digest, now, force) for r in self.records if r.version in gone]
        tombstones = bury(self.tombstones, graves, now)
        return replace(self, records=records, aliases=aliases, pins=pins, tombstones=tombstones)

    def with_alias(self, alias: str, shares: Sequence[Share], etag: str | None, now: float) -> Entry:
        """Points an alias at live versions; none takes it away. Raises AliasChanged or AdapterNotFound."""
        before = self.aliases.get(alias, Alias())
        before.expect(etag)
        for share in shares:
            self.record(share.version)
        return replace(self, aliases=self.aliases | {alias: before.moved(shares, now)})

    def with_alias_back(self, alias: str, etag: str | None, now: float) -> Entry:
        """The alias's previous state comes back. Raises AliasChanged or NothingToRestore."""
        before = self.aliases.get(alias, Alias())
        before.expect(etag)
        return replace(self, aliases=self.aliases | {alias: before.restored(self.versions, now)})

    def with_pin(self, version: int, tier: str) -> Entry:
        """Raises AdapterNotFound."""
        self.record(version)
        return replace(self, pins=self.pins | {version: tier})

    def without_pin(self, version: int) -> Entry:
        self.record(version)
        return replace(self, pins={each: tier for each, tier in self.pins.items() if each != version})

    def to_json(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":")).encode()

    @staticmethod
    def from_json(data: bytes) -> Entry:
        """Reads what `to_json` wrote; raises ValueError for anything else."""
        try:
            fields = json.loads(data)
            if fields.pop("format") != FORMAT:
                raise ValueError("the document has another format")
            fields["records"] = tuple(Record(**record) for record in fields["records"])
            fields["aliases"] = {
                check_alias(name): _alias(states) for name, states in fields["aliases"].items()
            }
            fields["pins"] = {int(version): tier for version, tier in fields["pins"].items()}
            fields["tombstones"] = tuple(Tombstone(**each) for each in fields.get("tombstones", ()))
            entry = Entry(**fields)
            check_tenant(entry.tenant)
            check_name(entry.name)
        except (KeyError, TypeError, AttributeError, InvalidName) as error:
            raise ValueError("the document lacks a field or has a wrong one") from error
        if not all(_DIGEST.match(record.digest) for record in entry.records):
            raise ValueError("the document names something that is no digest")
        if any(version > entry.last_version for version in entry.versions):
            raise ValueError("the document has versions beyond its last one")
        return entry


def entry_key(tenant: str, name: str) -> str:
    """What the document is stored under; '/' is in neither grammar, so no two pairs share a key."""
    return hashlib.sha256(f"{tenant}/{name}".encode()).hexdigest()


def _alias(fields: dict[str, list[dict[str, object]]]) -> Alias:
    return Alias(tuple(_state(**state) for state in fields["states"]))  # type: ignore[arg-type]


def _state(revision: int, shares: list[dict[str, int]], changed_at: float, restores: int) -> AliasState:
    return AliasState(revision, tuple(Share(**share) for share in shares), changed_at, restores)
