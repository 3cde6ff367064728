"""What is known of a deleted version for a while: when it went, and whether those who run on it are to end.

Servers that share a bucket learn of a deletion one after another. Until the last one has, the bytes stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# How long a server may be without news of the others, and how long a request may wait for its adapter.
GRACE_SECONDS = 3600.0
# Documents stay small, whoever uploads and deletes in a loop.
MAX_TOMBSTONES = 1000


@dataclass(frozen=True)
class Tombstone:
    """`deleted_at` in seconds since the epoch; `forced`: its holders end, at whichever server."""

    version: int
    digest: str
    deleted_at: float
    forced: bool


def bury(before: Sequence[Tombstone], new: Iterable[Tombstone], now: float) -> tuple[Tombstone, ...]:
    """Those that still matter, oldest first; each for twice the grace, as servers' clocks differ."""
    kept = [each for each in before if now - each.deleted_at < 2 * GRACE_SECONDS]
    return tuple([*kept, *new][-MAX_TOMBSTONES:])
