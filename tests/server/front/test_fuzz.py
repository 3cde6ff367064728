"""Whatever a request holds, the answer is a documented one, and never a fault of ours."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lorikeet.v1 import adapters_pb2
from lorikeet.v1 import inference_pb2 as pb
from server.checks import check
from server.engine.messages import Submit
from server.errors import InvalidRequest
from server.requests import Limits
from server.wire import params_of
from tests.server.front.house import PATIENCE, House, Item, batches
from tests.server.front.packs import upload
from tests.server.front.test_access import OURS, describe
from tests.server.front.tiny import CONTEXT, VOCAB

UINT32 = st.one_of(st.integers(0, 30), st.integers(0, 2**32 - 1))
FLOAT = st.one_of(st.floats(-3, 3, width=32), st.floats(width=32))
TEXT = st.one_of(st.text(max_size=20), st.text(min_size=500, max_size=600))


def maybe(**fields: st.SearchStrategy) -> st.SearchStrategy:
    return st.fixed_dictionaries({}, optional=fields)


SAMPLING = maybe(
    temperature=FLOAT,
    top_k=UINT32,
    top_p=FLOAT,
    min_p=FLOAT,
    repetition_penalty=FLOAT,
    presence_penalty=FLOAT,
    frequency_penalty=FLOAT,
    seed=st.integers(0, 2**64 - 1),
    max_new_tokens=UINT32,
    min_new_tokens=UINT32,
    stop=st.lists(st.text(max_size=5), max_size=5),
    stop_token_ids=st.lists(UINT32, max_size=18),
    logprobs=UINT32,
    ignore_eos=st.booleans(),
    n=UINT32,
).map(lambda fields: pb.Sampling(**fields))
CHAT = st.lists(
    st.builds(pb.ChatMessage, role=st.sampled_from(["user", "assistant", "system", "x"]), content=TEXT),
    max_size=3,
).map(lambda messages: pb.Chat(messages=messages))
IDS = st.lists(UINT32, max_size=CONTEXT + 5).map(lambda ids: pb.TokenIds(ids=ids))
INPUT = st.one_of(
    st.just({}),
    TEXT.map(lambda p: {"prompt": p}),
    CHAT.map(lambda c: {"chat": c}),
    IDS.map(lambda i: {"token_ids": i}),
)
REQUESTS = st.builds(
    lambda given, adapter_id, sampling: pb.GenerateRequest(adapter_id=adapter_id, sampling=sampling, **given),
    INPUT,
    st.one_of(st.just(""), st.text(max_size=10), st.sampled_from(["a@1", "../a", "a@0"])),
    st.one_of(st.none(), SAMPLING),
)
ALLOWED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


def checked_answer(request: Submit) -> list[Item]:
    """An engine that trusts the front, and finds out if it should not have."""
    sampling = request.sampling
    assert request.tokens and all(0 <= token < VOCAB for token in request.tokens)
    assert 1 <= sampling.max_new_tokens <= CONTEXT - len(request.tokens)
    assert sampling.min_new_tokens <= sampling.max_new_tokens
    assert 0 <= sampling.temperature <= 2 and 0 < sampling.top_p <= 1 and 0 <= sampling.min_p <= 1
    assert 0 < sampling.repetition_penalty <= 10 and 0 <= sampling.seed < 2**64
    assert all(0 <= token < VOCAB for token in sampling.stop_token_ids) and len(sampling.stop_token_ids) <= 18
    return batches(request, [40, 41], 2)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request_=REQUESTS)
def test_generate(house: House, request_: pb.GenerateRequest) -> None:
    house.link.script = checked_answer
    try:
        messages = list(house.inference.Generate(request_, timeout=PATIENCE))
    except grpc.RpcError as error:
        assert error.code() in ALLOWED, error
    else:
        assert sum(message.HasField("finished") for message in messages) == max(request_.sampling.n, 1)


LIMITS = Limits(vocab_size=VOCAB, max_tokens=CONTEXT)


@settings(max_examples=500, deadline=None)
@given(request_=REQUESTS)
def test_the_validator_names_fields_that_exist(request_: pb.GenerateRequest) -> None:
    try:
        check(params_of(request_), LIMITS)
    except InvalidRequest as error:
        known = {field.name for field in pb.Sampling.DESCRIPTOR.fields}
        for violation in error.violations:
            if violation.field.startswith("sampling."):
                assert violation.field.removeprefix("sampling.") in known
            assert len(str(violation.sentence)) < 300
        assert len({(v.field, v.sentence) for v in error.violations}) == len(error.violations)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_raw_bytes(house: House, data: bytes) -> None:
    """Whatever arrives under the method's name; what is no message is grpc's own to refuse."""
    house.link.script = checked_answer
    call = house.channel.unary_stream("/lorikeet.v1.Inference/Generate")
    try:
        pb.GenerateRequest.FromString(data)
    except Exception:  # noqa: BLE001
        with pytest.raises(grpc.RpcError):
            list(call(data, timeout=PATIENCE))
        return
    try:
        list(call(data, timeout=PATIENCE))
    except grpc.RpcError as error:
        assert error.code() in ALLOWED, error


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=120), method=st.sampled_from(OURS))
def test_raw_bytes_at_every_rpc(house: House, data: bytes, method: str) -> None:
    """What is a message gets an answer or a documented status; what is none is grpc's own to refuse."""
    house.link.script = checked_answer
    found = describe(method)
    shape = ("stream" if found.client_streaming else "unary", "stream" if found.server_streaming else "unary")
    call = getattr(house.channel, "_".join(shape))(method)
    try:
        GetMessageClass(found.input_type).FromString(data)
        allowed = {*ALLOWED, grpc.StatusCode.RESOURCE_EXHAUSTED}
    except DecodeError:
        allowed = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    try:
        answer = call(iter([data]) if found.client_streaming else data, timeout=PATIENCE)
        list(answer) if found.server_streaming else None
    except grpc.RpcError as error:
        assert error.code() in allowed, (method, error)


NAMES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        ["stored", "stored@1", "stored@prod", "acme/stored", "../../etc/passwd", "a\x00", "a" * 200]
    ),
)


def messages(kind: Descriptor, depth: int = 0) -> st.SearchStrategy:
    """Messages of a type, with any of their fields set: names that mean something among those that do not."""
    fields = {
        field.name: values(field, depth) for field in kind.fields if depth < 3 or not field.message_type
    }
    made = GetMessageClass(kind)
    return st.fixed_dictionaries({}, optional=fields).map(lambda given: made(**_one_of_each(kind, given)))


def values(field: FieldDescriptor, depth: int) -> st.SearchStrategy:
    found: dict[int, st.SearchStrategy] = {
        FieldDescriptor.TYPE_STRING: NAMES,
        FieldDescriptor.TYPE_BYTES: st.binary(max_size=40),
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_FLOAT: FLOAT,
        FieldDescriptor.TYPE_DOUBLE: st.floats(),
        FieldDescriptor.TYPE_ENUM: st.integers(-1, 9),
        FieldDescriptor.TYPE_UINT32: UINT32,
        FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
        FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
        FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    }
    each = messages(field.message_type, depth + 1) if field.message_type else found[field.type]
    return st.lists(each, max_size=3) if field.is_repeated else each


def _one_of_each(kind: Descriptor, given: dict[str, Any]) -> dict[str, Any]:
    """Of fields that exclude each other, the first."""
    for group in kind.oneofs:
        for field in [field.name for field in group.fields if field.name in given][1:]:
            del given[field]
    return given


@pytest.fixture
def stocked(house: House) -> House:
    """With an adapter under a name and an alias that the messages know."""
    house.adapters.Upload(iter(upload("stored")), timeout=PATIENCE)
    shares = [{"version": 1, "weight": 1}]
    house.adapters.SetAlias(adapters_pb2.SetAliasRequest(name="stored", alias="prod", shares=shares))
    return house


# What a call of one tenant's may come to, whatever it holds.
ANSWERS = ALLOWED | {
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.DATA_LOSS,
    # Of those that watch or warm what does not come.
    grpc.StatusCode.DEADLINE_EXCEEDED,
}


@pytest.mark.parametrize("method", OURS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_messages_of_every_rpc(stocked: House, tmp_path: Path, method: str, data: Any) -> None:
    """No INTERNAL, and no file but in the store."""
    house = stocked
    house.link.script = checked_answer
    found = describe(method)
    drawn = data.draw(st.lists(messages(found.input_type), min_size=1, max_size=3))
    codecs = (drawn[0].__class__.SerializeToString, GetMessageClass(found.output_type).FromString)
    shape = ("stream" if found.client_streaming else "unary", "stream" if found.server_streaming else "unary")
    call = getattr(house.channel, "_".join(shape))(method, *codecs)
    try:
        answer = call(iter(drawn) if found.client_streaming else drawn[0], timeout=0.3)
        list(answer) if found.server_streaming else None
    except grpc.RpcError as error:
        assert error.code() in ANSWERS, (method, error)
    assert {path.name for path in tmp_path.iterdir()} == {"store0"}
