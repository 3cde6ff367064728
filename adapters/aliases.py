"""The aliases of all names: moved by compare-and-set, with a way back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from adapters.alias import Alias, Share, check_shares
from adapters.entry import Entry
from adapters.errors import AdapterNotFound
from adapters.ledger import Ledger
from adapters.names import check_alias, check_name, check_tenant


class Aliases:
    """Thread-safe. An etag names one state of one alias: None asks for none, "" for an alias that is not yet.

    Every method raises InvalidName for malformed names and StoreUnavailable when the storage fails.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def set(
        self, tenant: str, name: str, alias: str, shares: Sequence[Share], etag: str | None = None
    ) -> Alias:
        """Points an alias at live versions. Raises AliasChanged, or AdapterNotFound for a version."""
        check_shares(shares)
        return self._change(
            tenant, name, alias, lambda entry: entry.with_alias(alias, shares, etag, time.time())
        )

    def get(self, tenant: str, name: str, alias: str) -> Alias:
        """The alias as it is now, wherever it was changed. Raises AdapterNotFound."""
        _check(tenant, name, alias)
        found = self._ledger.fresh(tenant, name).aliases.get(alias, Alias())
        if not found.shares:
            raise _no_alias(name, alias)
        return found

    def list(self, tenant: str, name: str) -> dict[str, Alias]:
        """Every alias of a name; none for a name that nobody used."""
        check_tenant(tenant)
        check_name(name)
        aliases = self._ledger.fresh(tenant, name).aliases
        return {alias: state for alias, state in sorted(aliases.items()) if state.shares}

    def delete(self, tenant: str, name: str, alias: str, etag: str | None = None) -> None:
        """Takes an alias away; its history stays. Raises AliasChanged or AdapterNotFound."""

        def change(entry: Entry) -> Entry:
            if not entry.aliases.get(alias, Alias()).shares:
                raise _no_alias(name, alias)
            return entry.with_alias(alias, (), etag, time.time())

        self._change(tenant, name, alias, change)

    def roll_back(self, tenant: str, name: str, alias: str, etag: str | None = None) -> Alias:
        """Back to the state before. Raises AliasChanged, AdapterNotFound or NothingToRestore."""

        def change(entry: Entry) -> Entry:
            if alias not in entry.aliases:
                raise _no_alias(name, alias)
            return entry.with_alias_back(alias, etag, time.time())

        return self._change(tenant, name, alias, change)

    def _change(self, tenant: str, name: str, alias: str, change: Callable[[Entry], Entry]) -> Alias:
        _check(tenant, name, alias)
        _, entry = self._ledger.update(tenant, name, change)
        return entry.aliases[alias]


def _check(tenant: str, name: str, alias: str) -> None:
    check_tenant(tenant)
    check_name(name)
    check_alias(alias)


def _no_alias(name: str, alias: str) -> AdapterNotFound:
    return AdapterNotFound(
        f"There is no alias {name}@{alias}; list the aliases of {name} to see what there is."
    )
