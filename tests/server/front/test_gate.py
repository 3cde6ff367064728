"""The gate around services of all four shapes, and the table from errors to statuses."""

import inspect
from functools import partial
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb
from tokenizers import Tokenizer

import adapters.errors
import server.errors
from adapters.errors import AdapterError, AdapterNotFound, InvalidAdapter
from server.books import Books
from server.caller import current_caller
from server.errors import FrontError, InvalidRequest, NoSuchAdapter, QueueFull, Told
from server.gate import Gate
from server.identity.access import Access
from server.identity.scopes import INFER
from server.link import EngineLost
from server.metrics import Metrics
from server.status import TABLE, to_status
from server.tenant_metrics import TenantMetrics
from server.trace import NoSpans
from tests.adapters.test_tokenizer_check import tokenizer
from tests.server.front.house import PATIENCE, Loop, refused

PANICKING = tokenizer(normalizer={"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8AAAA="})


class Echo(grpc.GenericRpcHandler):
    """Answers with the tenant, or fails as the request says."""

    def service(self, details: Any) -> Any:
        make, behavior = {
            "/e/uu": (grpc.unary_unary_rpc_method_handler, self.unary),
            "/e/us": (grpc.unary_stream_rpc_method_handler, self.generate),
            "/e/uw": (grpc.unary_stream_rpc_method_handler, self.write),
            "/e/su": (grpc.stream_unary_rpc_method_handler, self.collect),
            "/e/ss": (grpc.stream_stream_rpc_method_handler, self.mirror),
        }.get(details.method, (None, None))
        return make and make(behavior)

    async def unary(self, request: bytes, context: Any) -> bytes:
        if request == b"abort":
            await context.abort(grpc.StatusCode.ALREADY_EXISTS, "on purpose")
        if request == b"timeout":
            raise TimeoutError("not the call's own")
        if request == b"panic":
            Tokenizer.from_str(PANICKING).encode("a")
        if request != b"":
            raise {b"full": QueueFull("full"), b"bug": ValueError("secret")}[request]
        return current_caller().tenant.encode()

    async def generate(self, request: bytes, context: Any) -> Any:
        yield await self.unary(request, context)

    async def write(self, request: bytes, context: Any) -> None:
        await context.write(await self.unary(request, context))

    async def collect(self, requests: Any, context: Any) -> bytes:
        return b"".join([await self.unary(request, context) async for request in requests])

    async def mirror(self, requests: Any, context: Any) -> Any:
        async for request in requests:
            yield await self.unary(request, context)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(TenantMetrics(20))


@pytest.fixture
def calls(loop: Loop, metrics: Metrics) -> Any:
    async def start() -> tuple[grpc.aio.Server, int]:
        access = Access(rpcs={"e": dict.fromkeys(SHAPES, INFER)})
        server = grpc.aio.server(interceptors=(Gate(access, Books(metrics, NoSpans())),))
        server.add_generic_rpc_handlers((Echo(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        return server, port

    server, port = loop.run(start())
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield {
            "uu": lambda request: [channel.unary_unary("/e/uu")(request, timeout=PATIENCE)],
            "us": lambda request: list(channel.unary_stream("/e/us")(request, timeout=PATIENCE)),
            "uw": lambda request: list(channel.unary_stream("/e/uw")(request, timeout=PATIENCE)),
            "su": lambda request: [channel.stream_unary("/e/su")(iter([request]), timeout=PATIENCE)],
            "ss": lambda request: list(channel.stream_stream("/e/ss")(iter([request]), timeout=PATIENCE)),
            "no": lambda request: [channel.unary_unary("/e/no")(request, timeout=PATIENCE)],
        }
    loop.run(server.stop(0))


SHAPES = ["uu", "us", "uw", "su", "ss"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape(calls: Any, metrics: Metrics, loop: Loop, shape: str) -> None:
    assert calls[shape](b"") == [b"default"]
    full = refused(lambda: calls[shape](b"full"))
    assert (full.code, full.reason, full.message) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        "full",
    )
    bug = refused(lambda: calls[shape](b"bug"))
    assert (bug.code, bug.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret" not in bug.message
    with pytest.raises(grpc.RpcError) as aborted:
        calls[shape](b"abort")
    assert (aborted.value.code(), aborted.value.details()) == (grpc.StatusCode.ALREADY_EXISTS, "on purpose")
    for code in ("ok", "resource_exhausted", "internal", "already_exists"):
        # A call is counted once it is over here, which the client may hear of first.
        labels = {"method": f"/e/{shape}", "code": code}
        count = partial(metrics.registry.get_sample_value, "lorikeet:rpcs_total", labels)
        loop.until(lambda count=count: count() == 1)  # type: ignore[misc]


def test_a_timeout_inside_is_no_deadline(calls: Any) -> None:
    assert refused(lambda: calls["uu"](b"timeout")).code is grpc.StatusCode.INTERNAL


def test_a_panic_of_a_library_is_an_error_like_any_other(calls: Any) -> None:
    assert refused(lambda: calls["uu"](b"panic")).reason == "INTERNAL"
    assert calls["uu"](b"") == [b"default"]


def test_an_unknown_method(calls: Any, metrics: Metrics) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        calls["no"](b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert b"/e/no" not in str(list(metrics.registry.collect())).encode(), "strangers do not make labels"


def test_the_log_line(calls: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "server.books")
    calls["uu"](b"")
    (line,) = [record.getMessage() for record in caplog.records if record.name == "server.books"]
    assert line.startswith("/e/uu OK ")


def test_the_table_knows_every_error() -> None:
    for module, root in ((server.errors, FrontError), (adapters.errors, AdapterError)):
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, root) and kind not in (root, AdapterNotFound, Told):
                assert any(base in TABLE for base in kind.__mro__), kind
    assert EngineLost in TABLE


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest.of("field" * 100, "long " * 1000),
        InvalidAdapter(["long " * 1000] * 100),
        NoSuchAdapter("a" * 128, "long " * 1000),
        QueueFull("long " * 1000),
    ],
)
def test_statuses_stay_small(error: Exception) -> None:
    """Base64 adds a third, and peers cap all trailers together at 8 KiB."""
    status = to_status(error)
    assert status is not None
    assert len(status.message) + status.ByteSize() * 4 / 3 < 7 * 1024


def test_bugs_have_no_row() -> None:
    assert to_status(ValueError("x")) is None


def test_retry_delays_are_told() -> None:
    status = to_status(QueueFull("x"))
    assert status is not None
    assert any(detail.Is(details_pb.RetryInfo.DESCRIPTOR) for detail in status.details)
