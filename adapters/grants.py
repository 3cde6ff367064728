"""Which tenants may use whose adapters: one small file in the store, written whole at each change.

A grant is for a name, so for every version of it, also those to come.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from adapters.durable import replace_file, storage_errors
from adapters.errors import AdapterNotFound, InvalidName, StoreUnavailable, TooManyGrants
from adapters.names import check_name, check_tenant, parse_reference

MAX_GRANTS = 10_000


@dataclass(frozen=True, order=True)
class Grant:
    """`tenant` may use `owner`'s adapters called `name`; `created_at` in seconds since the epoch."""

    owner: str
    name: str
    tenant: str
    created_at: float


Key = tuple[str, str, str]


class Grants:
    """Thread-safe; for the one process that uses the store. Changes are durable on return.

    Every method raises InvalidName for a malformed name or tenant, and StoreUnavailable when the disk fails.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._clock = clock
        self._lock = Lock()
        with storage_errors(f"reading {path}"):
            self._grants = _read(path)

    def share(self, owner: str, name: str, tenant: str) -> Grant:
        """The new grant, or the one that is there. Raises TooManyGrants."""
        if owner == tenant:
            raise InvalidName("An adapter is not shared with its own tenant; name another one.")
        key = _key(owner, name, tenant)
        with self._lock:
            if key in self._grants:
                return self._grants[key]
            if Counter(each[0] for each in self._grants)[owner] >= MAX_GRANTS:
                raise TooManyGrants(f"A tenant has at most {MAX_GRANTS} grants; take some back.")
            grant = Grant(*key, self._clock())
            self._write({**self._grants, key: grant})
        return grant

    def unshare(self, owner: str, name: str, tenant: str) -> None:
        """No grant is no error."""
        key = _key(owner, name, tenant)
        with self._lock:
            if key in self._grants:
                self._write({each: grant for each, grant in self._grants.items() if each != key})

    def of(self, tenant: str) -> list[Grant]:
        """All that a tenant gave or was given."""
        return sorted(grant for grant in self._grants.values() if tenant in (grant.owner, grant.tenant))

    def locate(self, tenant: str, reference: str) -> tuple[str, str]:
        """Whose adapter a tenant's reference means, and the owner's own reference to it.

        Raises AdapterNotFound without a grant, before anybody looks whether the adapter exists.
        """
        owner, own = split_reference(reference)
        if not owner or owner == tenant:
            return tenant, own
        if (owner, parse_reference(own).name, tenant) not in self._grants:
            raise AdapterNotFound(f"There is no adapter {reference}.")
        return owner, own

    def _write(self, grants: dict[Key, Grant]) -> None:
        with storage_errors(f"writing {self._path}"):
            replace_file(self._path, json.dumps([asdict(grant) for grant in grants.values()]).encode())
        self._grants = grants


def split_reference(text: str) -> tuple[str, str]:
    """`tenant/name@3` is a tenant and `name@3`; the tenant is empty for one's own. Raises InvalidName."""
    owner, slash, own = text.rpartition("/")
    if slash:
        check_tenant(owner)
    parse_reference(own)
    return owner, own


def _key(owner: str, name: str, tenant: str) -> Key:
    return check_tenant(owner), check_name(name), check_tenant(tenant)


def _read(path: Path) -> dict[Key, Grant]:
    try:
        found = [Grant(**fields) for fields in json.loads(path.read_bytes())]
        return {_key(grant.owner, grant.name, grant.tenant): grant for grant in found}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, InvalidName) as error:
        raise StoreUnavailable(f"{path} is damaged ({error}); put a copy of it back.") from error
