"""By which ids a call is known: the caller's own request id, and W3C's trace context.

They are for logs and spans alone. Nothing inside the server is found by an id that a client chose.
"""

import re
import secrets
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from typing import Protocol

import grpc

REQUEST_ID, TRACE_PARENT = "x-request-id", "traceparent"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}\Z", re.ASCII)
_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})\Z", re.ASCII
)
SAMPLED = 1


@dataclass(frozen=True)
class Trace:
    """One call. Ids of trace and spans in hex; `parent_id` is empty where the call begins its trace."""

    request_id: str
    trace_id: str
    span_id: str
    parent_id: str = ""
    flags: int = SAMPLED

    @classmethod
    def of(cls, metadata: Iterable[tuple[str, str | bytes]]) -> "Trace":
        """What the caller sent, as far as it is well formed; what is missing is drawn."""
        sent = {name: value for name, value in metadata if isinstance(value, str)}
        request_id = sent.get(REQUEST_ID, "")
        if not _REQUEST_ID.match(request_id):
            request_id = secrets.token_hex(16)
        span_id = secrets.token_hex(8)
        parent = _PARENT.match(sent.get(TRACE_PARENT, ""))
        if parent is None:
            return cls(request_id, secrets.token_hex(16), span_id)
        return cls(request_id, parent[1], span_id, parent[2], int(parent[3], 16))

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What the caller gets back, behind the answer."""
        parent = f"00-{self.trace_id}-{self.span_id}-{self.flags & SAMPLED:02x}"
        return ((REQUEST_ID, self.request_id), (TRACE_PARENT, parent))


# By name: beginning and end, in seconds of the monotonic clock.
Phases = Mapping[str, tuple[float, float]]
Facts = Mapping[str, str | int]


class Spans(Protocol):
    """Where spans go."""

    def call(self, trace: Trace, method: str, code: grpc.StatusCode, began_at: float, facts: Facts) -> None:
        """A call has ended just now."""

    def phases(self, trace: Trace, phases: Phases, facts: Facts) -> None:
        """Parts of a call that is still under way."""

    def close(self) -> None:
        """Sends what is left; may take two seconds."""


class NoSpans:
    """Where nobody collects them."""

    def call(self, trace: Trace, method: str, code: grpc.StatusCode, began_at: float, facts: Facts) -> None:
        pass

    def phases(self, trace: Trace, phases: Phases, facts: Facts) -> None:
        pass

    def close(self) -> None:
        pass


def open_spans(endpoint: str) -> Spans:
    """Raises ModuleNotFoundError where spans are asked for and the extra `otel` is missing."""
    if not endpoint:
        return NoSpans()
    opened: Spans = import_module("server.otel").OtelSpans(endpoint)
    return opened


_current: ContextVar[Trace] = ContextVar("trace")


def set_trace(trace: Trace) -> None:
    """For the gate alone."""
    _current.set(trace)


def current_trace() -> Trace:
    """The ids of this call; fails for code that did not come through the gate."""
    return _current.get()
