"""Every error a caller can catch, as one closed tree. `str(error)` is a sentence for people.

LorikeetError
|-- InvalidRequest       the request is wrong as it stands; `.violations` names each field
|-- NotFound             no such adapter or version; `.resource` names it
|-- FailedPrecondition   right request, wrong state: the adapter exists but cannot be served
|-- Aborted              somebody else was faster, or took it away: an alias moved, an adapter deleted
|-- ResourceExhausted    a queue, a quota or a size limit; `.retry_after`, `.violations`
|-- DataLoss             bytes arrived other than they were sent; upload again
|-- DeadlineExceeded     the timeout passed first
|-- Cancelled            the caller (or the server's shutdown) ended the call
|-- Unavailable          no server there, or it loads, drains or restarts; `.retry_after`
|-- Unauthenticated      no valid key
|-- PermissionDenied     a valid key, but not for this
`-- ServerError          a fault of the server
"""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2 as rpc  # type: ignore[import-untyped]
from grpc_status import rpc_status


class Violation(NamedTuple):
    """One reason for a refusal: the field (or the quota's subject) and a sentence about it."""

    field: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.field}: {self.sentence}" if self.field else self.sentence


class LorikeetError(Exception):
    """Base of everything this client raises about a call."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        # A stable word for programs, such as `QUEUE_FULL`, if the server gave one.
        self.reason = reason
        # Under which the server's log has the call, if it got there.
        self.request_id = ""


class InvalidRequest(LorikeetError):
    """The request is wrong as it stands; sending it again cannot help."""

    def __init__(self, message: str, *, violations: Sequence[Violation] = (), reason: str = "") -> None:
        super().__init__(message, reason=reason)
        self.violations = [Violation(*violation) for violation in violations]


class NotFound(LorikeetError):
    """No such adapter or version. `resource` is what was asked for, if the server named it."""

    def __init__(self, message: str, *, resource: str = "", reason: str = "") -> None:
        super().__init__(message, reason=reason)
        self.resource = resource


class FailedPrecondition(LorikeetError):
    """The request is right but the server's state is not, such as an adapter that could not be loaded."""


class Aborted(LorikeetError):
    """Somebody else was faster: the alias moved, the upload was taken over, the adapter was deleted."""


class ResourceExhausted(LorikeetError):
    """A queue, a quota or a size limit. `retry_after` is in seconds, None if waiting does not help."""

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        violations: Sequence[Violation] = (),
        reason: str = "",
    ) -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after
        self.violations = [Violation(*violation) for violation in violations]


class DataLoss(LorikeetError):
    """Bytes arrived other than they were sent."""


class DeadlineExceeded(LorikeetError):
    """The timeout passed before the answer was complete."""


class Cancelled(LorikeetError):
    """The call was ended by its caller or by the server's shutdown."""


class Unavailable(LorikeetError):
    """No server answers, or it cannot answer now. `retry_after` is in seconds, if the server said so."""

    def __init__(self, message: str, *, retry_after: float | None = None, reason: str = "") -> None:
        super().__init__(message, reason=reason)
        self.retry_after = retry_after


class Unauthenticated(LorikeetError):
    """The call carried no valid key."""


class PermissionDenied(LorikeetError):
    """The key is valid but may not do this."""


class ServerError(LorikeetError):
    """A fault of the server, or an answer that breaks the contract."""


class _Details:
    """The google.rpc details of one failed call, by kind; missing ones are empty."""

    _KINDS: ClassVar[dict[str, Any]] = {
        kind.DESCRIPTOR.full_name: kind
        for kind in (rpc.BadRequest, rpc.RetryInfo, rpc.ResourceInfo, rpc.QuotaFailure, rpc.ErrorInfo)
    }

    def __init__(self, error: grpc.RpcError) -> None:
        self._found: dict[Any, Any] = {}
        try:
            # A failed call is both an RpcError and a Call, which the type of neither says.
            status: Any = rpc_status.from_call(error) if isinstance(error, grpc.Call) else None
            for packed in status.details if status else ():
                if kind := self._KINDS.get(packed.type_url.rpartition("/")[2]):
                    self._found[kind] = kind.FromString(packed.value)
        except (ValueError, DecodeError):
            # Details are decoration: what a proxy mangled must not hide the status itself.
            self._found.clear()

    def violations(self) -> list[Violation]:
        found = [Violation(v.field, v.description) for v in self._get(rpc.BadRequest).field_violations]
        return found + [Violation(v.subject, v.description) for v in self._get(rpc.QuotaFailure).violations]

    def retry_after(self) -> float | None:
        if rpc.RetryInfo not in self._found:
            return None
        delay = self._found[rpc.RetryInfo].retry_delay
        return float(delay.seconds + delay.nanos / 1e9)

    def resource(self) -> str:
        return str(self._get(rpc.ResourceInfo).resource_name)

    def reason(self) -> str:
        return str(self._get(rpc.ErrorInfo).reason)

    def _get(self, kind: Any) -> Any:
        return self._found.get(kind) or kind()


_Code = grpc.StatusCode
_CLASSES: dict[grpc.StatusCode, type[LorikeetError]] = {
    _Code.INVALID_ARGUMENT: InvalidRequest,
    _Code.OUT_OF_RANGE: InvalidRequest,
    _Code.NOT_FOUND: NotFound,
    _Code.FAILED_PRECONDITION: FailedPrecondition,
    _Code.ALREADY_EXISTS: FailedPrecondition,
    _Code.ABORTED: Aborted,
    _Code.RESOURCE_EXHAUSTED: ResourceExhausted,
    _Code.DATA_LOSS: DataLoss,
    _Code.DEADLINE_EXCEEDED: DeadlineExceeded,
    _Code.CANCELLED: Cancelled,
    _Code.UNAVAILABLE: Unavailable,
    _Code.UNAUTHENTICATED: Unauthenticated,
    _Code.PERMISSION_DENIED: PermissionDenied,
}
# What each class keeps of the details beside the message and the reason.
_EXTRAS: dict[type[LorikeetError], tuple[str, ...]] = {
    InvalidRequest: ("violations",),
    NotFound: ("resource",),
    ResourceExhausted: ("retry_after", "violations"),
    Unavailable: ("retry_after",),
}


def from_rpc(error: grpc.RpcError) -> LorikeetError:
    """The typed error for a failed call, with whatever google.rpc details the server attached."""
    is_call = isinstance(error, grpc.Call)
    code = error.code() if is_call else _Code.UNKNOWN
    message = error.details() if is_call else str(error)
    details = _Details(error)
    kind = _CLASSES.get(code, ServerError)
    extras: dict[str, Any] = {name: getattr(details, name)() for name in _EXTRAS.get(kind, ())}
    made = kind(message or code.name, reason=details.reason(), **extras)
    if is_call:
        trailers: Any = error.trailing_metadata() or ()
        made.request_id = str(dict(trailers).get("x-request-id", ""))
    return made
