"""gRPC's calls over HTTP/2: one message out, a stream of messages in, a status."""

from collections.abc import Callable, Sequence
from urllib.parse import unquote

import grpc

from loadtests.drive.http2 import CANCEL, REFUSED_STREAM, BrokenError, Header, Http2

# A flag byte for compression, of which there is none, and the length.
PREFIX_BYTES = 5
MAX_TIMEOUT_MS = 99_999_999

_NAMES = {str(code.value[0]): code.name.lower() for code in grpc.StatusCode}
# As gRPC's specification has them, for what ends without a status; all others are internal and unknown.
_RESETS = {None: "unavailable", REFUSED_STREAM: "unavailable", CANCEL: "cancelled", 11: "resource_exhausted"}
_HTTP = {
    "400": "internal",
    "401": "unauthenticated",
    "403": "permission_denied",
    "404": "unimplemented",
    "429": "unavailable",
    "502": "unavailable",
    "503": "unavailable",
    "504": "unavailable",
}


class CallError(Exception):
    """A call that did not end well. outcome: a status in lower case."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(f"{outcome}: {reason}")
        self.outcome = outcome
        self.reason = reason


class Messages:
    """Cuts what a stream brings into messages, each heard with the time at which it was whole."""

    def __init__(self, heard: Callable[[float, bytes], None]) -> None:
        self._heard = heard
        self._rest = b""

    def __call__(self, at: float, data: bytes) -> None:
        data = self._rest + data
        start = 0
        while len(data) - start >= PREFIX_BYTES:
            end = start + PREFIX_BYTES + int.from_bytes(data[start + 1 : start + PREFIX_BYTES], "big")
            if end > len(data):
                break
            self._heard(at, data[start + PREFIX_BYTES : end])
            start = end
        self._rest = data[start:]


async def stream(
    connection: Http2,
    headers: Sequence[Header],
    message: bytes,
    heard: Callable[[float, bytes], None],
    clock: Callable[[], float],
) -> float:
    """When the answer ended, by the clock. Raises CallError for every status but OK."""
    body = b"\0" + len(message).to_bytes(4, "big") + message
    number, answer = connection.call(headers, body, Messages(heard), clock)
    try:
        end = await answer.ended
    except BrokenError as error:
        raise CallError(_RESETS.get(error.code, "internal"), str(error)) from error
    finally:
        connection.forget(number)
    _require_ok(answer.headers)
    return end


def request_headers(
    scheme: str, authority: str, path: str, metadata: Sequence[Header], timeout: float | None
) -> list[Header]:
    """timeout: seconds, told to the server."""
    headers = [
        (":method", "POST"),
        (":scheme", scheme),
        (":path", path),
        (":authority", authority),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("user-agent", "lorikeet-loadtest"),
        *metadata,
    ]
    if timeout is not None:
        headers.append(("grpc-timeout", f"{min(int(timeout * 1e3), MAX_TIMEOUT_MS)}m"))
    return headers


def _require_ok(headers: dict[str, str]) -> None:
    status = headers.get("grpc-status")
    if status is None:
        code = headers.get(":status", "")
        raise CallError(_HTTP.get(code, "unknown"), f"HTTP status {code}, and none of gRPC")
    if status != "0":
        raise CallError(_NAMES.get(status, "unknown"), unquote(headers.get("grpc-message", "")))
