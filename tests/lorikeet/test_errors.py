"""Every status a server can answer with, through a real call."""

import inspect
import pickle
import re

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as rpc

from lorikeet import errors

CODES = {
    "INVALID_ARGUMENT": errors.InvalidRequest,
    "OUT_OF_RANGE": errors.InvalidRequest,
    "NOT_FOUND": errors.NotFound,
    "FAILED_PRECONDITION": errors.FailedPrecondition,
    "ALREADY_EXISTS": errors.FailedPrecondition,
    "ABORTED": errors.Aborted,
    "RESOURCE_EXHAUSTED": errors.ResourceExhausted,
    "DATA_LOSS": errors.DataLoss,
    "DEADLINE_EXCEEDED": errors.DeadlineExceeded,
    "CANCELLED": errors.Cancelled,
    "UNAVAILABLE": errors.Unavailable,
    "UNAUTHENTICATED": errors.Unauthenticated,
    "PERMISSION_DENIED": errors.PermissionDenied,
    "INTERNAL": errors.ServerError,
    "UNKNOWN": errors.ServerError,
    "UNIMPLEMENTED": errors.ServerError,
}


def failure(server, client, code, message="A sentence.", *details):
    """The error that `model()` raises when the server refuses like this."""
    server.inference.get_model = lambda request, context: server.refuse(context, code, message, *details)
    with pytest.raises(errors.LorikeetError) as caught:
        client.model()
    return caught.value


def test_every_status_code_is_mapped():
    assert set(CODES) == {code.name for code in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize("code", CODES)
def test_a_status_becomes_its_error(server, client, code):
    error = failure(server, client, grpc.StatusCode[code])
    assert type(error) is CODES[code]
    assert str(error) == error.message == "A sentence."
    assert error.reason == ""
    assert isinstance(error.__cause__, grpc.RpcError)


def test_the_drawing_in_the_docstring_is_the_tree():
    drawn = re.findall(r"^[|`]-- (\w+)", errors.__doc__, re.M)
    classes = [
        c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.LorikeetError)
    ]
    assert sorted(drawn) == sorted(c.__name__ for c in classes if c is not errors.LorikeetError)
    assert all(c.__base__ is errors.LorikeetError for c in classes if c is not errors.LorikeetError)


def test_bad_request_lists_every_violation(server, client):
    fields = [("sampling.top_p", "must be in (0, 1]."), ("prompt", "is empty.")]
    violations = [rpc.BadRequest.FieldViolation(field=f, description=d) for f, d in fields]
    detail = rpc.BadRequest(field_violations=violations)
    error = failure(server, client, grpc.StatusCode.INVALID_ARGUMENT, "wrong", detail)
    assert error.violations == fields
    assert error.violations[0].field == "sampling.top_p"
    assert str(error.violations[1]) == "prompt: is empty."


def test_quota_and_retry_come_with_resource_exhausted(server, client):
    quota = rpc.QuotaFailure(violations=[rpc.QuotaFailure.Violation(subject="acme", description="10 queued")])
    retry = rpc.RetryInfo(retry_delay=Duration(seconds=2, nanos=500_000_000))
    error = failure(server, client, grpc.StatusCode.RESOURCE_EXHAUSTED, "full", quota, retry)
    assert (error.retry_after, error.violations) == (2.5, [("acme", "10 queued")])


def test_no_retry_info_is_none_and_zero_is_zero(server, client):
    assert failure(server, client, grpc.StatusCode.UNAVAILABLE).retry_after is None
    now = rpc.RetryInfo(retry_delay=Duration())
    assert failure(server, client, grpc.StatusCode.UNAVAILABLE, "soon", now).retry_after == 0.0


def test_not_found_names_the_resource_and_the_reason(server, client):
    resource = rpc.ResourceInfo(resource_type="adapter", resource_name="acme@3")
    info = rpc.ErrorInfo(reason="ADAPTER_NOT_FOUND", domain="lorikeet")
    error = failure(server, client, grpc.StatusCode.NOT_FOUND, "no acme@3", resource, info)
    assert (error.resource, error.reason) == ("acme@3", "ADAPTER_NOT_FOUND")


def test_unknown_details_are_skipped(server, client):
    help_link, info = rpc.Help(), rpc.ErrorInfo(reason="WHY")
    assert failure(server, client, grpc.StatusCode.INTERNAL, "x", help_link, info).reason == "WHY"


@pytest.mark.parametrize("value", [b"\xff\xff\xff", b"", b"\x08\x05\x12\x05other"])
def test_mangled_details_do_not_hide_the_status(server, client, value):
    def get_model(request, context):
        context.set_trailing_metadata((("grpc-status-details-bin", value),))
        context.abort(grpc.StatusCode.NOT_FOUND, "gone")

    server.inference.get_model = get_model
    with pytest.raises(errors.NotFound, match="gone") as caught:
        client.model()
    assert caught.value.resource == ""


def test_an_error_without_a_message_says_its_code(server, client):
    assert str(failure(server, client, grpc.StatusCode.INTERNAL, "")) == "INTERNAL"


def test_an_rpc_error_that_is_no_call_is_a_server_error():
    assert str(errors.from_rpc(grpc.RpcError("odd"))) == "odd"
    assert type(errors.from_rpc(grpc.RpcError())) is errors.ServerError


def test_errors_survive_pickling():
    error = errors.InvalidRequest("no", violations=[errors.Violation("prompt", "is empty.")], reason="R")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.violations, copy.reason) == (
        errors.InvalidRequest,
        "no",
        error.violations,
        "R",
    )
