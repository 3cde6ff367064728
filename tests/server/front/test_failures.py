"""Generate: every status that the contract names, and what is left behind after each."""

from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb

from lorikeet.v1 import inference_pb2 as pb
from lorikeet.v1.inference_pb2_grpc import InferenceStub
from server.engine.messages import Failure
from server.link import EngineLost
from server.text import Text
from tests.server.front.house import PATIENCE, House, Open, batches, refused, script
from tests.server.front.tiny import CONTEXT, VOCAB, make_base

Code = grpc.StatusCode


def generate(house: House, **request: Any) -> list[Any]:
    return list(house.inference.Generate(pb.GenerateRequest(**request), timeout=PATIENCE))


def test_all_violations_at_once(house: House) -> None:
    bad = pb.Sampling(
        temperature=float("nan"),
        top_k=VOCAB + 1,
        top_p=0,
        min_p=2,
        repetition_penalty=0,
        presence_penalty=-3,
        frequency_penalty=3,
        max_new_tokens=0,
        min_new_tokens=9,
        stop=["x"] * 5,
        stop_token_ids=[VOCAB],
        logprobs=21,
        n=9,
    )
    refusal = refused(lambda: generate(house, adapter_id="../etc", sampling=bad))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.reason == "INVALID_REQUEST"
    set_fields = {f"sampling.{field.name}" for field, _ in bad.ListFields()}
    assert set(refusal.fields) == {"adapter_id", "input", *set_fields}
    assert house.link.submitted == []


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        ({}, "input"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * (16 * CONTEXT + 1)}, "prompt"),
        ({"prompt": "é" * (8 * CONTEXT + 1)}, "prompt"),
        ({"prompt": "x y " * (CONTEXT - 10)}, "prompt"),
        ({"token_ids": {"ids": []}}, "token_ids"),
        ({"token_ids": {"ids": [VOCAB]}}, "token_ids"),
        ({"token_ids": {"ids": [1] * CONTEXT}}, "token_ids"),
        ({"chat": {}}, "chat.messages"),
        ({"chat": {"messages": [{"role": "user", "content": "x"}] * 1025}}, "chat.messages"),
        ({"chat": {"messages": [{"role": "root", "content": "x"}]}}, "chat.messages[0].role"),
        ({"chat": {"messages": [{"role": "user", "content": "x" * 2000}]}}, "chat.messages"),
        ({"chat": {"messages": [{"role": "user", "content": "x y " * 54}]}}, "chat"),
        ({"chat": {"messages": [{"role": "assistant", "content": "x"}]}}, "chat"),
        ({"prompt": "x", "adapter_id": "name@0"}, "adapter_id"),
        ({"prompt": "x", "adapter_id": "a/b/c"}, "adapter_id"),
        ({"prompt": "x", "adapter_id": "a" * 129}, "adapter_id"),
        ({"prompt": "x", "sampling": {"min_new_tokens": 300}}, "sampling.min_new_tokens"),
        ({"prompt": "x", "sampling": {"stop": [""]}}, "sampling.stop"),
        ({"prompt": "x", "sampling": {"stop": ["é" * 129]}}, "sampling.stop"),
        ({"prompt": "x", "sampling": {"stop_token_ids": [1] * 17}}, "sampling.stop_token_ids"),
        ({"prompt": "x", "sampling": {"n": 0}}, "sampling.n"),
        ({"prompt": "x", "sampling": {"temperature": -0.1}}, "sampling.temperature"),
        ({"prompt": "x", "sampling": {"temperature": 2.1}}, "sampling.temperature"),
        ({"prompt": "x", "sampling": {"top_p": float("inf")}}, "sampling.top_p"),
    ],
)  # fmt: skip
def test_one_violation(house: House, request_: dict[str, Any], field: str) -> None:
    refusal = refused(lambda: generate(house, **request_))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert refusal.fields == [field]
    assert house.link.submitted == []


def test_the_longest_prompt_that_fits(house: House, text: Text) -> None:
    house.link.script = script(text, "x")
    generate(house, token_ids={"ids": [7] * (CONTEXT - 1)})
    assert house.link.submitted[0].sampling.max_new_tokens == 1


def test_many_violations_fit_the_trailers(house: House) -> None:
    messages = [pb.ChatMessage(role=f"role {i}" * 9, content="x") for i in range(1000)]
    refusal = refused(lambda: generate(house, chat=pb.Chat(messages=messages)))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert len(refusal.fields) == 20


def test_a_base_without_a_chat_template(open_house: Open, tmp_path: Path) -> None:
    house = open_house(base=str(make_base(tmp_path / "plain", template=None)))
    assert not house.inference.GetModel(pb.GetModelRequest()).has_chat_template
    chat = {"messages": [{"role": "user", "content": "x"}]}
    refusal = refused(lambda: generate(house, chat=chat))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["chat"])
    assert refused(lambda: house.inference.Tokenize(pb.TokenizeRequest(chat=chat))).fields == ["chat"]


@pytest.mark.parametrize("request_", [{}, {"text": ""}, {"text": "x" * 2000}, {"chat": {}}])
def test_tokenize_refuses(house: House, request_: dict[str, Any]) -> None:
    refusal = refused(lambda: house.inference.Tokenize(pb.TokenizeRequest(**request_)))
    assert refusal.code is Code.INVALID_ARGUMENT
    assert len(refusal.fields) == 1


def test_no_such_adapter(house: House) -> None:
    refusal = refused(lambda: generate(house, prompt="x", adapter_id="nobody@3"))
    assert (refusal.code, refusal.reason) == (Code.NOT_FOUND, "ADAPTER_NOT_FOUND")
    resource = refusal.detail(details_pb.ResourceInfo)
    assert (resource.resource_type, resource.resource_name) == ("adapter", "nobody@3")


@pytest.mark.parametrize(
    ("reason", "code"),
    [("adapter", Code.FAILED_PRECONDITION), ("numeric", Code.INTERNAL), ("internal", Code.INTERNAL)],
)
def test_engine_failures(house: House, reason: str, code: grpc.StatusCode) -> None:
    house.link.script = lambda request: [Failure(request.id, reason, "a reason")]
    refusal = refused(lambda: generate(house, prompt="x"))
    assert refusal.code is code
    assert refusal.reason in ("ADAPTER_UNUSABLE", "GENERATION_FAILED")
    assert house.link.aborted == []


def test_a_failure_after_some_text(house: House, text: Text) -> None:
    house.link.script = lambda request: [
        *script(text, "hello world")(request)[:2],
        Failure(request.id, "numeric", ""),
    ]
    answers = house.inference.Generate(pb.GenerateRequest(prompt="x"), timeout=PATIENCE)
    assert next(answers).HasField("started")
    assert refused(lambda: answers).code is Code.INTERNAL


@pytest.mark.parametrize("items", [[EngineLost("gone")], []])
def test_a_lost_engine(house: House, items: list[Any]) -> None:
    house.link.script = lambda request: items or [EngineLost("gone")]
    refusal = refused(lambda: generate(house, prompt="x"))
    assert (refusal.code, refusal.reason, refusal.retries) == (Code.UNAVAILABLE, "ENGINE_LOST", True)


def test_one_failing_sample_ends_the_others(house: House, text: Text) -> None:
    def answer(request: Any) -> list[Any]:
        return [] if request.id != 2 else [Failure(request.id, "adapter", "torn")]

    house.link.script = answer
    refusal = refused(lambda: generate(house, prompt="x", sampling=pb.Sampling(n=3)))
    assert refusal.code is Code.FAILED_PRECONDITION
    house.link.wait(lambda: sorted(house.link.aborted) == [1, 3])


def test_a_fault_of_ours_tells_nothing(house: House, caplog: pytest.LogCaptureFixture) -> None:
    house.link.script = lambda request: [RuntimeError("secret path /x")]
    refusal = refused(lambda: generate(house, prompt="the prompt nobody may read"))
    assert (refusal.code, refusal.reason) == (Code.INTERNAL, "INTERNAL")
    incident = refusal.detail(details_pb.ErrorInfo).metadata["incident"]
    assert incident in refusal.message
    assert "secret" not in refusal.message
    assert "secret" in caplog.text and incident in caplog.text
    assert "nobody may read" not in caplog.text


def test_the_queue_is_bounded(open_house: Open, text: Text) -> None:
    house = open_house(queue_limit=3)
    first = house.inference.Generate(pb.GenerateRequest(prompt="x", sampling=pb.Sampling(n=2)))
    house.link.wait(lambda: len(house.link.submitted) == 2)
    refusal = refused(lambda: generate(house, prompt="x", adapter_id="nobody", sampling=pb.Sampling(n=2)))
    assert (refusal.code, refusal.reason, refusal.retries) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", True)
    house.link.script = script(text, "hello")
    assert generate(house, prompt="x")[-1].HasField("finished")
    first.cancel()
    house.link.wait(lambda: len(house.link.aborted) == 2)
    house.loop.run(house.front._generating.wait_idle())
    assert generate(house, prompt="x", sampling=pb.Sampling(n=3))


def test_a_deadline_aborts(house: House, text: Text) -> None:
    house.link.script = lambda request: script(text, "hello world")(request)[:1]
    call = house.inference.Generate(pb.GenerateRequest(prompt="x"), timeout=0.5)
    assert refused(lambda: call).code is Code.DEADLINE_EXCEEDED
    house.link.wait(lambda: len(house.link.aborted) == 1)


def test_hanging_up_aborts(house: House, text: Text) -> None:
    house.link.script = lambda request: script(text, "hello world")(request)[:1]
    call = house.inference.Generate(pb.GenerateRequest(prompt="x"), timeout=PATIENCE)
    next(call)
    call.cancel()
    house.link.wait(lambda: len(house.link.aborted) == 1)
    house.loop.run(house.front._generating.wait_idle())


def test_leaving_in_the_middle_of_a_write_is_no_fault(
    house: House, text: Text, caplog: pytest.LogCaptureFixture
) -> None:
    ids = text.backend.encode("the cat sat on the mat", add_special_tokens=False).ids * 500
    house.link.script = lambda request: batches(request, ids)
    for count in range(30):
        with grpc.insecure_channel(f"127.0.0.1:{house.front.port}") as channel:
            request = pb.GenerateRequest(prompt="x", sampling=pb.Sampling(n=1 + count % 3))
            call = InferenceStub(channel).Generate(request, timeout=PATIENCE)
            for _ in range(count % 7 + 1):
                next(call)
    house.loop.run(house.front._generating.wait_idle())
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_closed_connection_aborts(house: House, text: Text) -> None:
    channel = grpc.insecure_channel(f"127.0.0.1:{house.front.port}")
    call = InferenceStub(channel).Generate(pb.GenerateRequest(prompt="x"))
    house.link.wait(lambda: len(house.link.submitted) == 1)
    channel.close()
    house.link.wait(lambda: len(house.link.aborted) == 1)
    del call


def test_nothing_is_served_before_the_engine_is_ready(open_house: Open) -> None:
    house = open_house(ready=False)
    for call in (
        lambda: generate(house, prompt="x"),
        lambda: house.inference.GetModel(pb.GetModelRequest()),
        lambda: house.inference.Tokenize(pb.TokenizeRequest(text="x")),
    ):
        refusal = refused(call)
        assert (refusal.code, refusal.reason, refusal.retries) == (Code.UNAVAILABLE, "NOT_READY", True)


def test_a_message_over_the_limit(house: House) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        generate(house, prompt="x" * (5 << 20))
    assert caught.value.code() is Code.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("size", [30_000, 500])
def test_a_slow_reader_is_cut(open_house: Open, text: Text, size: int) -> None:
    """Its sequence and its place are free long before it reads the verdict, the first message or not."""
    house = open_house()
    house.front._inference._patience = 0.2
    token_ids = text.backend.encode("the cat sat on the mat", add_special_tokens=False).ids * 20_000

    house.link.script = lambda request: batches(request, token_ids, size)[:-1]
    options = [("grpc.http2.lookahead_bytes", 16384), ("grpc.http2.bdp_probe", 0)]
    with grpc.insecure_channel(f"127.0.0.1:{house.front.port}", options) as channel:
        call = InferenceStub(channel).Generate(pb.GenerateRequest(prompt="x"))
        house.link.wait(lambda: len(house.link.aborted) == 1)
        house.loop.run(house.front._generating.wait_idle())
        refusal = refused(lambda: call)
    assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "SLOW_READER")
