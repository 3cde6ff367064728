"""Requests that brought down other servers: each gets its status, and the next one is served."""

import threading
from typing import Any

import grpc
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorikeet.v1 import inference_pb2 as pb
from lorikeet.v1.inference_pb2_grpc import InferenceStub
from server.caller import Caller
from server.fronts.forward import CALLER_KEY
from server.identity.keys import KeyFile
from server.identity.scopes import SCOPES
from server.listener import OPTIONS
from server.text import Text
from tests.server.front.house import PATIENCE, House, Open, batches, script
from tests.server.front.test_access import OURS
from tests.server.front.test_access import call as call_any
from tests.server.front.test_fuzz import checked_answer

Code = grpc.StatusCode
BIG = 2**32 - 1
# What each is known from stands in the advisories of the field: unbounded counts, minima above maxima,
# ids outside the vocabulary, numbers that are not finite, names as paths, text that explodes.
SAMPLINGS: list[dict[str, Any]] = [
    {"n": BIG},
    {"min_new_tokens": BIG},
    {"min_new_tokens": 10, "max_new_tokens": 1},
    {"max_new_tokens": 0},
    {"logprobs": BIG},
    {"top_k": BIG},
    {"temperature": float("nan")},
    {"temperature": float("inf")},
    {"top_p": float("-inf")},
    {"repetition_penalty": 1e-45},
    {"stop": ["x" * 100_000]},
    {"stop": [""] * 1000},
    {"stop_token_ids": [BIG]},
    {"stop_token_ids": list(range(100_000))},
]
REQUESTS: list[dict[str, Any]] = [
    {"token_ids": {"ids": [BIG]}},
    {"token_ids": {"ids": [0] * 1_000_000}},
    {"token_ids": {}},
    {"prompt": "\x00" * 5000},
    {"prompt": "\ud7ff\u202e" * 2000},
    {"prompt": "a" * 4_000_000},
    {"chat": {"messages": [{"role": "user", "content": ""}] * 100_000}},
    {"chat": {"messages": [{"role": "{{ 7 * 7 }}", "content": "x"}]}},
    {"prompt": "x", "adapter_id": "../../etc/passwd"},
    {"prompt": "x", "adapter_id": "x" * 1_000_000},
    {"prompt": "x", "adapter_id": "https://example.com/adapter"},
    {"prompt": "x", "adapter_id": "a\x00b"},
    {"prompt": "x", "priority": -(2**31)},
]


@pytest.fixture
def house(open_house: Open, text: Text) -> House:
    house = open_house()
    house.link.script = checked_answer
    return house


@pytest.mark.parametrize("request_", [*({"prompt": "x", "sampling": s} for s in SAMPLINGS), *REQUESTS])
def test_a_poison_is_refused_and_the_next_request_is_served(house: House, request_: dict[str, Any]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        list(house.inference.Generate(pb.GenerateRequest(**request_), timeout=PATIENCE))
    assert caught.value.code() in (Code.INVALID_ARGUMENT, Code.NOT_FOUND)
    assert house.link.submitted == []
    assert house.generate()[-1].HasField("finished")


METADATA = st.lists(
    st.tuples(
        st.sampled_from(
            ["authorization", "x-request-id", "traceparent", "x-tenant", "grpc-timeout-x", "lk-bin"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=200),
    ),
    max_size=6,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(METADATA, st.sampled_from(["", "Bearer ", "bearer lmk_", "Basic "]), st.sampled_from(OURS))
def test_whatever_stands_in_the_metadata_nobody_gets_in(
    closed_house: House, metadata: list[tuple[str, str]], scheme: str, method: str
) -> None:
    sent = [
        (name, value.encode() if name.endswith("-bin") else scheme * (name == "authorization") + value)
        for name, value in metadata
    ]
    assert call_any(closed_house, method, sent).code is Code.UNAUTHENTICATED, sent


def test_nobody_vouches_for_himself(closed_house: House) -> None:
    """What a front says of its callers to the first one is no word of a client's."""
    forged = [(CALLER_KEY, msgspec.json.encode(Caller("acme", "", frozenset(SCOPES))))]
    assert {call_any(closed_house, method, forged).code for method in OURS} == {Code.UNAUTHENTICATED}


@pytest.fixture
def closed_house(open_house: Open, tmp_path: Any) -> House:
    KeyFile(tmp_path / "keys.json").create("acme", SCOPES)
    return open_house(keys=tmp_path / "keys.json")


def test_metadata_above_its_limit_ends_the_call_alone(house: House) -> None:
    large = (("x-request-id", "a" * 40_000),)
    with pytest.raises(grpc.RpcError) as caught:
        house.inference.GetModel(pb.GetModelRequest(), metadata=large, timeout=PATIENCE)
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED
    assert house.generate()[-1].HasField("finished")


def test_the_limits_of_connections_are_the_documented_ones() -> None:
    options: dict[str, int] = dict(OPTIONS)
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 10_000
    assert options["grpc.keepalive_permit_without_calls"] == 1
    assert options["grpc.keepalive_time_ms"] == 60_000
    assert options["grpc.max_receive_message_length"] == 4 << 20
    assert options["grpc.max_metadata_size"] == 16 << 10


def test_readers_that_stall_keep_nobody_waiting(open_house: Open, text: Text) -> None:
    """Thirty of them hold answers without end; ten others are answered meanwhile, and all thirty are cut."""
    house = open_house()
    house.front._inference._patience = 0.5
    endless = text.backend.encode("the cat sat on the mat", add_special_tokens=False).ids * 20_000
    short = script(text, "hello")
    house.link.script = lambda request: (
        batches(request, endless, 30_000)[:-1] if len(request.tokens) == 1 else short(request)
    )
    options = [
        ("grpc.http2.lookahead_bytes", 16384),
        ("grpc.http2.bdp_probe", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    channels = [grpc.insecure_channel(f"127.0.0.1:{house.front.port}", options) for _ in range(30)]
    request = pb.GenerateRequest(token_ids={"ids": [7]})
    stalled = [InferenceStub(channel).Generate(request, timeout=PATIENCE) for channel in channels]
    answered = []
    others = [
        threading.Thread(target=lambda: answered.append(house.generate("the cat")[-1].HasField("finished")))
        for _ in range(10)
    ]
    for other in others:
        other.start()
    for other in others:
        other.join(PATIENCE)
    assert answered == [True] * 10
    house.link.wait(lambda: len(house.link.aborted) == 30)
    for channel, call in zip(channels, stalled, strict=True):
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert caught.value.code() is Code.RESOURCE_EXHAUSTED
        channel.close()
