"""What each tenant may use: one file, read again when it changes.

[default]                   every tenant, as far as its own table says nothing else
tokens_per_minute = 100_000

[tenants.acme]
weight = 4
certificates = ["acme.example"]
"""

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from adapters.errors import InvalidName
from adapters.names import check_tenant
from server.identity.live_file import LiveFile
from server.identity.scopes import TENANT_SCOPES, check_scopes


class Tenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tenant's part of the server. In limits, 0 means none but the server's own."""

    # Its share when several tenants want more than there is.
    weight: float = 1.0
    # Sequences that live at once, and those of them that wait for their first token.
    max_in_flight: int = 0
    max_queued: int = 0
    # Of prompts and answers together.
    tokens_per_minute: int = 0
    # In one request.
    max_prompt_tokens: int = 0
    max_new_tokens: int = 0
    # Subject alternative (or common) names of client certificates that speak for it.
    certificates: tuple[str, ...] = ()
    certificate_scopes: tuple[str, ...] = TENANT_SCOPES

    def __post_init__(self) -> None:
        check_scopes(self.certificate_scopes)
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(f"weight {self.weight} must be above 0")
        counts = ("max_in_flight", "max_queued", "tokens_per_minute", "max_prompt_tokens", "max_new_tokens")
        if negative := [name for name in counts if getattr(self, name) < 0]:
            raise ValueError(f"{', '.join(negative)} must not be negative")


class Tenants:
    """All tables of the file."""

    def __init__(self, default: Tenant, named: Mapping[str, Tenant]) -> None:
        self._default = default
        self._named = named
        self._by_certificate = {name: tenant for tenant in named for name in named[tenant].certificates}

    def get(self, tenant: str) -> Tenant:
        """The tenant's own table over the default one."""
        return self._named.get(tenant, self._default)

    def of_certificate(self, name: str) -> str | None:
        """The tenant for which a certificate of this name speaks."""
        return self._by_certificate.get(name)


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    default: dict[str, Any] = {}
    tenants: dict[str, dict[str, Any]] = {}


def read_tenants(data: bytes, is_json: bool) -> Tenants:
    """Raises ValueError with the first thing that is wrong and where it stands."""
    content = json.loads(data) if is_json else tomllib.loads(data.decode())
    file = msgspec.convert(content, _File)
    named = {name: _tenant(f"tenants.{name}", {**file.default, **own}) for name, own in file.tenants.items()}
    for name in named:
        try:
            check_tenant(name)
        except InvalidName as error:
            raise ValueError(str(error)) from error
    taken = [certificate for tenant in named.values() for certificate in tenant.certificates]
    if twice := {name for name in taken if taken.count(name) > 1}:
        raise ValueError(f"more than one tenant has the certificates {', '.join(sorted(twice))}")
    return Tenants(_tenant("default", file.default), named)


def _tenant(where: str, table: dict[str, Any]) -> Tenant:
    if where == "default" and "certificates" in table:
        raise ValueError("default: certificates belong to one tenant")
    try:
        return msgspec.convert(table, Tenant)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from error


# What the file says at the moment.
TenantsNow = Callable[[], Tenants]


def open_tenants(path: Path | None) -> TenantsNow:
    """What the file says at each call; without one, no tenant has limits. Raises OSError or ValueError."""
    if path is None:
        unlimited = Tenants(Tenant(), {})
        return lambda: unlimited
    return LiveFile((path,), partial(read_tenants, is_json=path.suffix == ".json")).get
