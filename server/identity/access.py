"""The door: every call is somebody's, and every RPC asks for a scope. What nobody thought of is refused."""

from collections.abc import Mapping
from typing import Any, Protocol

from server.caller import DEFAULT_TENANT, Caller
from server.errors import NotAllowed
from server.identity.identity import Metadata, Peer
from server.identity.scopes import PUBLIC, RPCS, SCOPES, scope_of

ANYBODY = Caller(DEFAULT_TENANT, "", frozenset(SCOPES))
NOBODY = Caller("", "", frozenset())


class Identifying(Protocol):
    def caller(self, metadata: Metadata, peer: Peer) -> Caller:
        """Whose call this is. Raises Unauthenticated."""


class Access:
    """Without an identity everybody is the default tenant and may do everything."""

    def __init__(
        self, identity: Identifying | None = None, rpcs: Mapping[str, Mapping[str, str]] = RPCS
    ) -> None:
        self._identity = identity
        self._rpcs = rpcs

    def identify(self, method: str, context: Any) -> Caller:
        """Who calls; nobody in particular where the RPC is public. Raises Unauthenticated."""
        if scope_of(method, self._rpcs) == PUBLIC:
            return NOBODY
        if self._identity is None:
            return ANYBODY
        return self._identity.caller(context.invocation_metadata() or (), context.auth_context())

    def authorize(self, method: str, caller: Caller) -> None:
        """Raises NotAllowed."""
        scope = scope_of(method, self._rpcs)
        if scope is None:
            raise NotAllowed(f"{method} is open to nobody.")
        if scope != PUBLIC and scope not in caller.scopes:
            raise NotAllowed(f"This key may not call {method}; it lacks the scope `{scope}`.")
