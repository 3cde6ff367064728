"""One version as the store hands it out, and which one a reference means."""

from __future__ import annotations

from dataclasses import dataclass

from adapters.alias import choose
from adapters.entry import Entry, Record
from adapters.errors import InvalidName
from adapters.manifest import Manifest
from adapters.names import Reference


@dataclass(frozen=True)
class AdapterVersion:
    """An adapter under a name; `created_at` in seconds since the epoch, `pinned` a tier or ""."""

    tenant: str
    name: str
    version: int
    digest: str
    created_at: float
    manifest: Manifest
    pinned: str = ""
    aliases: tuple[str, ...] = ()


def choose_record(entry: Entry, reference: Reference, key: str | None) -> Record:
    """The record a reference means in the entry in which it means any; InvalidName if it means several."""
    records = entry.matching(reference)
    if not reference.alias or len(records) == 1:
        return records[-1]
    if key is None:
        versions = ", ".join(f"{entry.name}@{record.version}" for record in records)
        raise InvalidName(f"{reference} means several versions; give one of {versions}.")
    return entry.record(choose(entry.aliases[reference.alias].shares, f"{reference}\0{key}"))


def describe(entry: Entry, record: Record, manifest: Manifest) -> AdapterVersion:
    """All that is known of one version."""
    return AdapterVersion(
        tenant=entry.tenant,
        name=entry.name,
        version=record.version,
        digest=record.digest,
        created_at=record.created_at,
        manifest=manifest,
        pinned=entry.pins.get(record.version, ""),
        aliases=tuple(
            name for name, alias in sorted(entry.aliases.items()) if record.version in alias.versions
        ),
    )
