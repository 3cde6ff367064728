"""Who calls. The gate sets it for each call; services only read it."""

from contextvars import ContextVar
from dataclasses import dataclass

DEFAULT_TENANT = "default"


@dataclass(frozen=True)
class Caller:
    """On whose behalf a call runs, by which credential, and what that credential may do."""

    tenant: str
    # The id of the API key, `jwt:SUBJECT` or `cert:NAME`; empty where there are no credentials.
    key_id: str = ""
    scopes: frozenset[str] = frozenset()
    # Who is at the other end, where another front took the call; else the connection tells.
    peer: str = ""


_current: ContextVar[Caller] = ContextVar("caller")


def set_caller(caller: Caller) -> None:
    """For the gate alone: the caller of the call that this task serves."""
    _current.set(caller)


def current_caller() -> Caller:
    """The caller of this call; fails for code that did not come through the gate."""
    return _current.get()
