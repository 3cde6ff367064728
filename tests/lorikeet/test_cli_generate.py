"""`lorikeet generate` against a scripted server."""

import io
import json
import sys

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2 as rpc

from lorikeet.cli.main import main
from lorikeet.v1 import inference_pb2


class Witness(io.StringIO):
    """Standard output that tells when its reader could have seen the first word."""

    def __init__(self, event):
        super().__init__()
        self.event = event

    def flush(self):
        if "Hello" in self.getvalue():
            self.event.set()


def test_text_is_printed_as_it_comes(server, monkeypatch, event):
    def generate(request, context):
        yield inference_pb2.GenerateResponse(text="Hello")
        # The second piece is not even made until the first one was flushed.
        assert event.wait(server.patience)
        yield from server.answer(" world")

    server.inference.generate = generate
    out = Witness(event)
    monkeypatch.setattr(sys, "stdout", out)
    assert main(["generate", "hi", "--raw", "--target", server.target]) == 0
    assert out.getvalue() == "Hello world\n"


def generate_request(server):
    return next(r for r in server.inference.requests if isinstance(r, inference_pb2.GenerateRequest))


@pytest.mark.parametrize(
    ("template", "flags", "form"),
    [(True, [], "chat"), (False, [], "prompt"), (True, ["--raw"], "prompt"), (False, ["--chat"], "chat")],
)
def test_a_prompt_is_a_chat_if_the_model_chats_or_the_user_says_so(server, run, template, flags, form):
    server.inference.get_model = lambda request, context: server.model(has_chat_template=template)
    assert run("generate", "hi", "--target", server.target, *flags) == (0, "Hello world\n", "")
    request = generate_request(server)
    assert request.WhichOneof("input") == form
    if form == "chat":
        assert [(m.role, m.content) for m in request.chat.messages] == [("user", "hi")]


def test_every_sampling_flag_arrives_and_only_those_given(server, run):
    flags = [
        "--temperature",
        "0.5",
        "--top-k",
        "3",
        "--seed",
        "0",
        "--stop",
        "a",
        "--stop",
        "b",
        "--ignore-eos",
    ]
    run("generate", "hi", "--raw", "--adapter", "acme@3", "--target", server.target, *flags)
    request = generate_request(server)
    assert request.adapter_id == "acme@3"
    sent = {field.name: value for field, value in request.sampling.ListFields()}
    assert list(sent.pop("stop")) == ["a", "b"]
    assert sent == {"temperature": 0.5, "top_k": 3, "seed": 0, "ignore_eos": True}


def test_every_option_of_the_contract_has_a_flag(run):
    _, out, _ = run("generate", "--help")
    for field in inference_pb2.Sampling.DESCRIPTOR.fields:
        assert "--" + field.name.replace("_", "-") in out


def test_the_prompt_comes_from_standard_input(server, run, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines\n"))
    run("generate", "-", "--raw", "--target", server.target)
    assert generate_request(server).prompt == "two\nlines"
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert run("generate", "-", "--target", server.target) == (2, "", "lorikeet: standard input is empty\n")


def test_json_is_the_whole_result(server, run):
    server.inference.generate = lambda request, context: server.answer("Grüße", adapter_version="acme@3")
    code, out, _ = run("generate", "hi", "--raw", "--json", "--target", server.target)
    result = json.loads(out)
    assert code == 0
    assert "Grüße" in out
    assert (result["adapter_version"], result["samples"][0]["text"]) == ("acme@3", "Grüße")
    assert result["samples"][0]["usage"]["total_seconds"] == 0.75


def test_usage_goes_to_standard_error(server, run):
    code, out, err = run("generate", "hi", "--raw", "--verbose", "--target", server.target)
    assert (code, out) == (0, "Hello world\n")
    assert err == (
        "base: 3 prompt tokens (2 cached), 2 new; first after 0.250 s, all after 0.750 s, 2.0 tokens/s\n"
    )


def test_several_samples_are_printed_one_after_another(server, run):
    server.inference.generate = lambda request, context: server.answer("a") + server.answer("b", index=1)
    _, out, _ = run("generate", "hi", "--raw", "--n", "2", "--target", server.target)
    assert out == "--- sample 0\na\n--- sample 1\nb\n"


def test_every_violation_is_printed(server, run):
    found = [("sampling.top_p", "must be in (0, 1]."), ("sampling.n", "must be in [1, 8].")]
    fields = [rpc.BadRequest.FieldViolation(field=f, description=d) for f, d in found]

    def generate(request, context):
        detail = rpc.BadRequest(field_violations=fields)
        # The server cuts long messages; the second reason is in the details alone.
        server.refuse(
            context, grpc.StatusCode.INVALID_ARGUMENT, "sampling.top_p: must be in (0, 1]....", detail
        )

    server.inference.generate = generate
    code, out, err = run("generate", "hi", "--raw", "--target", server.target)
    assert (code, out) == (1, "")
    assert err == "lorikeet: sampling.top_p: must be in (0, 1]....\n  sampling.n: must be in [1, 8].\n"


def test_when_to_try_again_is_printed(server, run):
    detail = rpc.RetryInfo(retry_delay=Duration(seconds=2))
    server.inference.generate = lambda request, context: server.refuse(
        context, grpc.StatusCode.RESOURCE_EXHAUSTED, "The queue is full.", detail
    )
    code, _, err = run("generate", "hi", "--raw", "--target", server.target)
    assert (code, err) == (1, "lorikeet: The queue is full. Try again in 2 s.\n")


def test_an_error_in_the_middle_keeps_what_was_printed(server, run):
    def generate(request, context):
        yield inference_pb2.GenerateResponse(text="Hello")
        server.refuse(context, grpc.StatusCode.INTERNAL, "The server failed.")

    server.inference.generate = generate
    code, out, err = run("generate", "hi", "--raw", "--target", server.target)
    assert (code, out, err) == (1, "Hello\n", "lorikeet: The server failed.\n")


def test_the_timeout_is_a_failure(server, run, event):
    def generate(request, context):
        context.add_callback(event.set)
        yield inference_pb2.GenerateResponse(text="Hello")
        assert event.wait(server.patience)

    server.inference.generate = generate
    code, out, err = run("generate", "hi", "--raw", "--timeout", "0.2", "--target", server.target)
    assert (code, out) == (1, "Hello\n")
    assert err


def test_an_interrupt_cancels_on_the_server(server, monkeypatch, capsys, event):
    def generate(request, context):
        context.add_callback(event.set)
        yield inference_pb2.GenerateResponse(text="Hello")
        assert event.wait(server.patience)

    class Impatient(io.StringIO):
        def flush(self):
            if self.getvalue() == "Hello":
                raise KeyboardInterrupt

    server.inference.generate = generate
    monkeypatch.setattr(sys, "stdout", Impatient())
    assert main(["generate", "hi", "--raw", "--target", server.target]) == 130
    assert event.wait(server.patience)


def test_no_server_is_a_sentence_with_the_address(run, dead_target):
    code, out, err = run("generate", "hi", "--target", dead_target)
    assert (code, out) == (1, "")
    assert dead_target in err
    assert len(err.splitlines()) == 1
