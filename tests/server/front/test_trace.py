"""Ids that come back, and spans that a real collector receives."""

import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)

from lorikeet import Client, InvalidRequest
from lorikeet.v1 import inference_pb2 as pb
from server.engine.messages import Failure
from server.text import Text
from server.trace import Trace
from tests.server.front.house import PATIENCE, House, Open, Refused, refused, script

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SENT = (("x-request-id", "order-42/a"), ("traceparent", f"00-{TRACE}-{PARENT}-01"))


def told(call: Any) -> dict[str, str]:
    return dict(call.trailing_metadata())


def test_ids_come_back_with_an_answer_and_with_a_refusal(house: House, text: Text) -> None:
    house.link.script = script(text, "hello")
    answer = house.inference.Generate(pb.GenerateRequest(prompt="x"), timeout=PATIENCE, metadata=SENT)
    list(answer)
    with pytest.raises(grpc.RpcError) as caught:
        house.inference.Tokenize(pb.TokenizeRequest(), metadata=SENT)
    for call in (answer, caught.value):
        found = told(call)
        assert found["x-request-id"] == "order-42/a"
        version, trace, span, flags = found["traceparent"].split("-")
        assert (version, trace, flags) == ("00", TRACE, "01") and span != PARENT
    assert Refused(caught.value).fields == ["input"], "the details are there as well"


def test_an_error_of_the_client_says_its_request_id(house: House) -> None:
    target = f"127.0.0.1:{house.front.port}"
    with Client(target, metadata=SENT, timeout=PATIENCE) as client, pytest.raises(InvalidRequest) as caught:
        client.tokenize("")
    assert caught.value.request_id == "order-42/a"


def test_ids_are_in_the_log(house: House, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "server.books")
    house.inference.GetModel(pb.GetModelRequest(), metadata=SENT)
    house.loop.until(lambda: "request=order-42/a" in caplog.text)


@given(
    st.dictionaries(
        st.sampled_from(["x-request-id", "traceparent"]),
        st.one_of(st.text(max_size=200), st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")),
    )
)
def test_whatever_is_sent_the_ids_are_well_formed(sent: dict[str, str]) -> None:
    trace = Trace.of(sent.items())
    assert 1 <= len(trace.request_id) <= 128 and trace.request_id.isascii() and "\n" not in trace.request_id
    assert len(trace.trace_id) == 32 and int(trace.trace_id, 16) and int(trace.span_id, 16)
    again = Trace.of(trace.metadata)
    assert (again.trace_id, again.parent_id) == (trace.trace_id, trace.span_id)
    assert again.request_id == trace.request_id


@pytest.mark.parametrize(
    "parent",
    [f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'0' * 16}-01", f"ff-{TRACE}-{PARENT}-01", TRACE, ""],
)
def test_a_malformed_parent_begins_a_new_trace(parent: str) -> None:
    trace = Trace.of([("traceparent", parent)])
    assert trace.trace_id != TRACE and trace.parent_id == ""


class Collector(TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.changed = threading.Condition()

    def Export(self, request: Any, context: Any) -> Any:
        with self.changed:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += scope.spans
            self.changed.notify_all()
        return otlp.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    server = grpc.server(futures.ThreadPoolExecutor(2))
    collector = Collector()
    add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(0).wait()


def test_spans_of_an_answer(open_house: Open, text: Text, collector: tuple[Collector, str]) -> None:
    received, endpoint = collector
    house = open_house(otlp_endpoint=endpoint)
    house.link.script = script(text, "the cat sat on the mat")
    request = pb.GenerateRequest(prompt="hello world")
    call = house.inference.Generate(request, timeout=PATIENCE, metadata=SENT)
    list(call)
    house.loop.until(lambda: house.front._generating.num_live == 0)
    with pytest.raises(grpc.RpcError):
        list(house.inference.Generate(pb.GenerateRequest(), timeout=PATIENCE, metadata=SENT))
    house.loop.run(house.front.stop())
    with received.changed:
        assert received.changed.wait_for(lambda: len(received.spans) >= 6, PATIENCE)
    assert {span.trace_id.hex() for span in received.spans} == {TRACE}
    roots = [span for span in received.spans if span.name == "lorikeet.v1.Inference/Generate"]
    assert [root.parent_span_id.hex() for root in roots] == [PARENT, PARENT]
    assert sorted(root.status.code for root in roots) == [0, 2]
    root = next(root for root in roots if root.status.code == 0)
    assert root.span_id.hex() == told(call)["traceparent"].split("-")[2]
    parts = {span.name: span for span in received.spans if span.parent_span_id == root.span_id}
    assert set(parts) == {"queue", "load", "prefill", "decode"}
    queue, load = parts["queue"], parts["load"]
    assert abs((queue.end_time_unix_nano - queue.start_time_unix_nano) / 1e9 - 0.25) < 1e-3
    assert abs((load.end_time_unix_nano - load.start_time_unix_nano) / 1e9 - 0.125) < 1e-3
    assert "hello world" not in str(received.spans) and "the cat" not in str(received.spans)


def test_an_adapter_that_cannot_be_used_is_a_failed_precondition(house: House) -> None:
    house.link.script = lambda request: [Failure(request.id, "adapter", "torn")]
    refusal = refused(lambda: house.generate())
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    (violation,) = refusal.detail(details_pb.PreconditionFailure).violations
    assert violation.type == "ADAPTER" and "torn" in violation.description
