"""The small calls, readiness, timeouts and metadata."""

import math

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from lorikeet import Client, Model, errors


def test_model_is_a_record_of_the_contract(server, client):
    server.inference.get_model = lambda request, context: server.model(has_chat_template=True)
    found = client.model()
    assert (found.name, found.family, found.max_context, found.has_chat_template) == (
        "tiny",
        "llama",
        128,
        True,
    )
    assert list(Model.__slots__) == [field.name for field in server.model().DESCRIPTOR.fields]


def test_tokenize_takes_text_and_chat(server, client):
    assert client.tokenize("hi") == [1, 2]
    assert client.tokenize([{"role": "user", "content": "hi"}], adapter="legal@2") == [1, 2]
    text, chat = server.inference.requests
    assert (text.text, chat.chat.messages[0].content) == ("hi", "hi")
    assert (text.adapter_id, chat.adapter_id) == ("", "legal@2")
    with pytest.raises(errors.InvalidRequest):
        client.tokenize([{"role": "user"}])


def test_metadata_goes_with_every_call(server):
    with Client(server.target, metadata=[("authorization", "Bearer k")]) as client:
        for call in (client.model, lambda: client.tokenize("x"), lambda: client.generate("hi").text()):
            server.inference.metadata = {}
            call()
            assert server.inference.metadata["authorization"] == "Bearer k"


def test_a_calls_timeout_overrides_the_clients(server):
    with Client(server.target, timeout=100) as client:
        client.model()
        assert 50 < server.inference.time_left < 150
        client.model(timeout=10)
        assert server.inference.time_left < 20
        client.generate("hi", timeout=math.inf).text()
        assert server.inference.time_left > 1e6


def test_no_timeout_is_no_deadline(server):
    with Client(server.target) as client:
        client.generate("hi").text()
        assert server.inference.time_left is None or server.inference.time_left > 1e6


def test_a_missing_server_is_unavailable_at_once(dead_target):
    with Client(dead_target) as client:
        for call in (client.model, client.generate("hi").text):
            with pytest.raises(errors.Unavailable):
                call()


def test_wait_ready_goes_on_while_the_model_loads(server, client):
    soon = error_details_pb2.RetryInfo(retry_delay=Duration(nanos=1_000_000))
    left = [1, 2, 3]

    def get_model(request, context):
        if left:
            left.pop()
            server.refuse(context, grpc.StatusCode.UNAVAILABLE, "The model loads.", soon)
        return server.model()

    server.inference.get_model = get_model
    assert client.wait_ready(timeout=server.patience).name == "tiny"
    assert not left


def test_wait_ready_says_why_it_gave_up(server, client, dead_target):
    loading = lambda request, context: server.refuse(context, grpc.StatusCode.UNAVAILABLE, "The model loads.")  # noqa: E731
    server.inference.get_model = loading
    with pytest.raises(errors.DeadlineExceeded, match=r"not ready within 0\.3 s: The model loads\."):
        client.wait_ready(timeout=0.3)
    with Client(dead_target) as lonely, pytest.raises(errors.DeadlineExceeded, match="nothing answers there"):
        lonely.wait_ready(timeout=0.3)


def test_wait_ready_does_not_wait_on_other_errors(server, client):
    server.inference.get_model = lambda request, context: server.refuse(
        context, grpc.StatusCode.UNAUTHENTICATED, "No key."
    )
    with pytest.raises(errors.Unauthenticated):
        client.wait_ready(timeout=server.patience)


def test_credentials_make_the_channel_secure(server):
    secure = Client(server.target, credentials=grpc.ssl_channel_credentials())
    # The fake speaks plaintext, so a client that shakes hands does not get through.
    with secure, pytest.raises(errors.Unavailable):
        secure.model()
