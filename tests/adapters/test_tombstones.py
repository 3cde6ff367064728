"""What deletions leave in a document, and for how long."""

from __future__ import annotations

from adapters.entry import Entry
from adapters.tombstones import GRACE_SECONDS, MAX_TOMBSTONES, Tombstone, bury

DIGESTS = [f"{number:064x}" for number in range(3)]


def named(count: int) -> Entry:
    entry = Entry("acme", "a")
    for digest in DIGESTS[:count]:
        entry = entry.with_version(digest, 1, 0.0)
    return entry


def test_a_deletion_is_remembered_and_survives_the_document() -> None:
    entry = named(3).without({1, 3}, force=True, now=5.0).without({2}, force=False, now=6.0)
    wanted = [(1, 5.0, True), (3, 5.0, True), (2, 6.0, False)]
    assert [(each.version, each.deleted_at, each.forced) for each in entry.tombstones] == wanted
    assert Entry.from_json(entry.to_json()) == entry


def test_a_document_without_tombstones_is_read() -> None:
    entry = named(1)
    data = entry.to_json().replace(b',"tombstones":[]', b"")
    assert b"tombstones" not in data and Entry.from_json(data) == entry


def test_the_old_and_the_many_are_forgotten() -> None:
    entry = named(2).without({1}, force=False, now=0.0)
    late = entry.without({2}, force=False, now=2 * GRACE_SECONDS)
    assert [each.version for each in late.tombstones] == [2]
    many = [Tombstone(version, DIGESTS[0], 1.0, False) for version in range(MAX_TOMBSTONES + 5)]
    assert bury(many, [], 2.0) == tuple(many[5:])
