"""The alias as it was read, and how it moves: only from the state that the decision was made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lorikeet.client import Client
from lorikeet.errors import NotFound
from training.errors import InvalidConfig
from training.publish.plan import PublishPlan


@dataclass(frozen=True, slots=True)
class Pointer:
    """An alias's shares, none while it does not exist, and the etag of that state ("" for none)."""

    shares: Mapping[int, int]
    etag: str

    @property
    def heaviest(self) -> int | None:
        """The version that most requests get, the newer one of equals."""
        return max(self.shares, key=lambda version: (self.shares[version], version), default=None)


def read_pointer(client: Client, name: str, alias: str) -> Pointer:
    """What the alias points at now."""
    try:
        found = client.adapters.get_alias(name, alias)
    except NotFound:
        return Pointer({}, "")
    return Pointer(found.shares, found.etag)


def current_version(client: Client, pointer: Pointer, plan: PublishPlan) -> str:
    """The version to be as good as, "" where there is none. Raises `InvalidConfig` for no such alias."""
    if plan.against:
        pointer = read_pointer(client, plan.name, plan.against)
        if pointer.heaviest is None:
            raise InvalidConfig([f"against: {plan.name} has no alias {plan.against} to compare with"])
    return "" if pointer.heaviest is None else f"{plan.name}@{pointer.heaviest}"


def shares_with(pointer: Pointer, version: int, share: int) -> dict[int, int]:
    """`share` percent for `version`, the rest for the version that has most now."""
    kept = pointer.heaviest
    if share == 100 or kept is None or kept == version:
        return {version: 1}
    return {kept: 100 - share, version: share}
