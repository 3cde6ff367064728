"""Which tenants may use whose adapters, as `client.grants`."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from lorikeet.v1 import grants_pb2


@dataclass(frozen=True)
class Grant:
    """`tenant` may use `owner`'s adapters called `name`."""

    owner: str
    name: str
    tenant: str
    create_time: datetime

    @property
    def adapter(self) -> str:
        """How the other tenant calls it: `owner/name`."""
        return f"{self.owner}/{self.name}"

    @classmethod
    def from_proto(cls, message: Any) -> Self:
        """The record of one message."""
        return cls(message.owner, message.name, message.tenant, message.create_time.ToDatetime(UTC))


class Grants:
    """Share one's own names with other tenants, and take them back."""

    def __init__(self, stub: Any, call: Callable[..., Any]) -> None:
        self._stub = stub
        self._call = call

    def share(self, name: str, tenant: str, *, timeout: float | None = None) -> Grant:
        """Lets `tenant` use every version of `name`, also those to come, until it is taken back."""
        request = grants_pb2.ShareRequest(name=name, tenant=tenant)
        return Grant.from_proto(self._call(self._stub.Share, request, timeout))

    def unshare(self, name: str, tenant: str, *, timeout: float | None = None) -> None:
        """Takes a grant back; no grant is no error."""
        request = grants_pb2.UnshareRequest(name=name, tenant=tenant)
        self._call(self._stub.Unshare, request, timeout)

    def list(self, *, timeout: float | None = None) -> tuple[Grant, ...]:
        """Every grant that one's own tenant gave or was given."""
        answer = self._call(self._stub.ListGrants, grants_pb2.ListGrantsRequest(), timeout)
        return tuple(map(Grant.from_proto, answer.grants))
