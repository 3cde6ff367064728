"""An alias: a name that points at versions by weight, and everything that it pointed at before."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from adapters.errors import AliasChanged, InvalidName, NothingToRestore

MAX_SHARES = 16
MAX_WEIGHT = 1_000_000
MAX_HISTORY = 100


@dataclass(frozen=True)
class Share:
    """One version's part of an alias; parts are relative to each other."""

    version: int
    weight: int


@dataclass(frozen=True)
class AliasState:
    """What an alias was from `changed_at` (seconds since the epoch) on. No shares: it did not exist.

    `restores` is the revision whose shares these are: its own, or an older one's after a rollback.
    """

    revision: int
    shares: tuple[Share, ...]
    changed_at: float
    restores: int


@dataclass(frozen=True)
class Alias:
    """Every state so far, oldest first, the one in force last; the oldest of more than 100 are dropped."""

    states: tuple[AliasState, ...] = ()

    @property
    def shares(self) -> tuple[Share, ...]:
        return self.states[-1].shares if self.states else ()

    @property
    def etag(self) -> str:
        """Names the state in force; "" while the alias does not exist."""
        return str(self.states[-1].revision) if self.shares else ""

    @property
    def versions(self) -> set[int]:
        return {share.version for share in self.shares}

    def expect(self, etag: str | None) -> None:
        """Raises AliasChanged unless the state in force is the one that `etag` names; None is any."""
        if etag is not None and etag != self.etag:
            raise AliasChanged("The alias was changed meanwhile; read it again and decide anew.")

    def moved(self, shares: Sequence[Share], now: float, restores: int = 0) -> Alias:
        """The alias with other shares in force."""
        revision = self.states[-1].revision + 1 if self.states else 1
        state = AliasState(revision, tuple(shares), now, restores or revision)
        return replace(self, states=(*self.states, state)[-MAX_HISTORY:])

    def restored(self, live: Collection[int], now: float) -> Alias:
        """The state before the one in force comes back; again and again, further and further back."""
        at = self.states[-1].restores if self.states else 0
        earlier = [state for state in self.states if state.revision < at and state.shares]
        if not earlier:
            raise NothingToRestore("The alias has no earlier state to go back to.")
        lost = [share.version for share in earlier[-1].shares if share.version not in live]
        if lost:
            raise NothingToRestore(
                f"The alias pointed at version {lost[0]} before, which is deleted; set it anew."
            )
        return self.moved(earlier[-1].shares, now, earlier[-1].restores)

    def without(self, gone: Collection[int], now: float) -> Alias:
        """The alias without these versions; unchanged if it names none of them."""
        if self.versions.isdisjoint(gone):
            return self
        return self.moved([share for share in self.shares if share.version not in gone], now)


def check_shares(shares: Sequence[Share]) -> None:
    """Raises InvalidName for shares that no alias can have."""
    if not 1 <= len(shares) <= MAX_SHARES:
        raise InvalidName(f"An alias points at 1 to {MAX_SHARES} versions, not {len(shares)}.")
    if len({share.version for share in shares}) < len(shares):
        raise InvalidName("An alias names each of its versions once.")
    for share in shares:
        if not 1 <= share.weight <= MAX_WEIGHT:
            raise InvalidName(
                f"The weight of version {share.version} must be from 1 to {MAX_WEIGHT}, not {share.weight}."
            )


def choose(shares: Sequence[Share], key: str) -> int:
    """The version for a key: the same one each time, each version for its part of all keys.

    Weighted rendezvous: -ln(u) / weight is least for a version with the probability weight / sum, and
    when weights change, only keys whose version gained or lost move.
    """
    return min(shares, key=lambda share: -math.log(_uniform(key, share.version)) / share.weight).version


def _uniform(key: str, version: int) -> float:
    """In (0, 1), a function of both."""
    digest = hashlib.sha256(f"{version}\0{key}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") + 0.5) / 2**64
