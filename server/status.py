"""The one table from domain errors to gRPC statuses with rich details."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2 as details_pb  # type: ignore[import-untyped]
from google.rpc import status_pb2

from adapters.errors import (
    AdapterNotFound,
    AliasChanged,
    ChecksumMismatch,
    InvalidAdapter,
    InvalidName,
    NothingToRestore,
    StoreQuotaExceeded,
    StoreUnavailable,
    TooManyGrants,
    UploadNotFound,
    UploadRejected,
    UploadTaken,
    UploadTooLarge,
    VersionInUse,
)
from server.errors import (
    AdapterDeleted,
    AdapterUnusable,
    DeadlinePassed,
    DeadlineUnreachable,
    GenerationFailed,
    InvalidRequest,
    NoSuchAdapter,
    NotAllowed,
    NotReady,
    QueueFull,
    QuotaExceeded,
    SlowReader,
    SlowSender,
    Told,
    Unauthenticated,
    Violation,
)
from server.link import EngineLost

DOMAIN = "lorikeet"
# Message and details share the trailers with the details' own base64; together they must stay below 8 KiB.
MAX_MESSAGE_CHARS = 400
MAX_DETAIL_CHARS = 3200
RETRY_SECONDS = 1

Code = grpc.StatusCode
Details = Callable[[Any], list[Message]]


@dataclass(frozen=True)
class Row:
    """How one kind of error is told to a client."""

    code: grpc.StatusCode
    reason: str
    details: Details = lambda error: []


def to_status(error: Exception) -> status_pb2.Status | None:
    """The status of an error that was raised on purpose; None for any other."""
    if isinstance(error, Told):
        return status_pb2.Status.FromString(error.status)
    row = _row(type(error))
    return None if row is None else _status(row.code, row.reason, str(error), row.details(error))


def incident_status(incident: str) -> status_pb2.Status:
    """The status of a fault of ours, told by nothing but the id under which it was logged."""
    sentence = f"The server failed; its log tells why under {incident}."
    return _status(Code.INTERNAL, "INTERNAL", sentence, [], incident=incident)


def _row(kind: type[BaseException]) -> Row | None:
    return next((TABLE[base] for base in kind.__mro__ if base in TABLE), None)


def _status(
    code: grpc.StatusCode, reason: str, sentence: str, details: Sequence[Message], **metadata: str
) -> status_pb2.Status:
    info = details_pb.ErrorInfo(reason=reason, domain=DOMAIN, metadata=metadata)
    status = status_pb2.Status(code=code.value[0], message=_shorten(sentence, MAX_MESSAGE_CHARS))
    for detail in (info, *details):
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _bad_request(violations: Sequence[Violation]) -> list[Message]:
    each = max(80, MAX_DETAIL_CHARS // len(violations))
    fields = [
        details_pb.BadRequest.FieldViolation(
            field=violation.field, description=_shorten(violation.sentence, each - len(violation.field))
        )
        for violation in violations
    ]
    return [details_pb.BadRequest(field_violations=fields)]


def _retry(error: Any) -> list[Message]:
    return [details_pb.RetryInfo(retry_delay=Duration(seconds=RETRY_SECONDS))]


def _quota(subject: str) -> Details:
    def failure(error: Exception) -> list[Message]:
        violation = details_pb.QuotaFailure.Violation(subject=subject, description=_shorten(str(error), 300))
        return [details_pb.QuotaFailure(violations=[violation])]

    return failure


def _tenants_quota(error: QuotaExceeded) -> list[Message]:
    failure = _quota(error.quota)(error)
    if error.seconds is None:
        return failure
    delay = Duration()
    delay.FromMilliseconds(math.ceil(error.seconds * 1000))
    return [*failure, details_pb.RetryInfo(retry_delay=delay)]


def _share(error: StoreQuotaExceeded) -> list[Message]:
    return _quota(error.subject)(error)


def _resource(error: NoSuchAdapter) -> list[Message]:
    return [details_pb.ResourceInfo(resource_type="adapter", resource_name=error.reference)]


def _precondition(error: AdapterUnusable) -> list[Message]:
    violation = details_pb.PreconditionFailure.Violation(
        type="ADAPTER", subject=error.reference, description=_shorten(str(error), 300)
    )
    return [details_pb.PreconditionFailure(violations=[violation])]


def _problems(error: InvalidAdapter) -> list[Message]:
    return _bad_request([Violation("files", problem) for problem in error.problems])


TABLE: dict[type[BaseException], Row] = {
    InvalidRequest: Row(
        Code.INVALID_ARGUMENT, "INVALID_REQUEST", lambda error: _bad_request(error.violations)
    ),
    InvalidName: Row(Code.INVALID_ARGUMENT, "INVALID_NAME"),
    InvalidAdapter: Row(Code.INVALID_ARGUMENT, "INVALID_ADAPTER", _problems),
    UploadRejected: Row(
        Code.INVALID_ARGUMENT,
        "UPLOAD_REJECTED",
        lambda error: _bad_request([Violation("files", str(error))]),
    ),
    ChecksumMismatch: Row(Code.DATA_LOSS, "CHECKSUM_MISMATCH"),
    UploadTooLarge: Row(Code.RESOURCE_EXHAUSTED, "UPLOAD_TOO_LARGE", _quota("adapter")),
    StoreQuotaExceeded: Row(Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", _share),
    TooManyGrants: Row(Code.RESOURCE_EXHAUSTED, "TOO_MANY_GRANTS", _quota("grants")),
    UploadNotFound: Row(Code.NOT_FOUND, "UPLOAD_NOT_FOUND"),
    UploadTaken: Row(Code.ABORTED, "UPLOAD_TAKEN"),
    AdapterNotFound: Row(Code.NOT_FOUND, "ADAPTER_NOT_FOUND"),
    AliasChanged: Row(Code.ABORTED, "ALIAS_CHANGED"),
    VersionInUse: Row(Code.FAILED_PRECONDITION, "VERSION_IN_USE"),
    NothingToRestore: Row(Code.FAILED_PRECONDITION, "NOTHING_TO_RESTORE"),
    AdapterDeleted: Row(Code.ABORTED, "ADAPTER_DELETED"),
    StoreUnavailable: Row(Code.UNAVAILABLE, "STORE_UNAVAILABLE", _retry),
    Unauthenticated: Row(Code.UNAUTHENTICATED, "UNAUTHENTICATED"),
    NotAllowed: Row(Code.PERMISSION_DENIED, "PERMISSION_DENIED"),
    NoSuchAdapter: Row(Code.NOT_FOUND, "ADAPTER_NOT_FOUND", _resource),
    AdapterUnusable: Row(Code.FAILED_PRECONDITION, "ADAPTER_UNUSABLE", _precondition),
    NotReady: Row(Code.UNAVAILABLE, "NOT_READY", _retry),
    EngineLost: Row(Code.UNAVAILABLE, "ENGINE_LOST", _retry),
    QueueFull: Row(Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", _retry),
    QuotaExceeded: Row(Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED", _tenants_quota),
    SlowReader: Row(Code.RESOURCE_EXHAUSTED, "SLOW_READER"),
    SlowSender: Row(Code.DEADLINE_EXCEEDED, "SLOW_SENDER"),
    DeadlinePassed: Row(Code.DEADLINE_EXCEEDED, "DEADLINE_PASSED"),
    DeadlineUnreachable: Row(Code.DEADLINE_EXCEEDED, "DEADLINE_UNREACHABLE"),
    GenerationFailed: Row(Code.INTERNAL, "GENERATION_FAILED"),
}
