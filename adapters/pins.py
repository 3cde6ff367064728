"""Which adapters stay in host memory or on the device, whatever else is asked for."""

from __future__ import annotations

from adapters.entry import TIERS, Entry
from adapters.errors import InvalidName
from adapters.ledger import Ledger
from adapters.quota import Quota


class Pins:
    """Thread-safe; pins are kept with the name and go with the version."""

    def __init__(self, ledger: Ledger, quota: Quota) -> None:
        self._ledger = ledger
        self._quota = quota

    def pin(self, tenant: str, name: str, version: int, tier: str) -> None:
        """Raises AdapterNotFound, StoreQuotaExceeded, or InvalidName for an unknown tier."""
        if tier not in TIERS:
            raise InvalidName(f"{tier!r} is no tier; use {' or '.join(TIERS)}.")

        def change(entry: Entry) -> Entry:
            after = entry.with_pin(version, tier)
            others = [each for each in self._ledger.index.entries(tenant) if each.name != name]
            self._quota.check_pins(sum(len(each.pins) for each in (*others, after)))
            return after

        self._ledger.update(tenant, name, change)

    def unpin(self, tenant: str, name: str, version: int) -> None:
        """Harmless where nothing was pinned. Raises AdapterNotFound."""
        self._ledger.update(tenant, name, lambda entry: entry.without_pin(version))

    def all(self) -> dict[str, str]:
        """Digest -> tier, over all tenants."""
        return self._ledger.index.pins()
