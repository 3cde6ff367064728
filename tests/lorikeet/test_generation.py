"""`client.generate`: text as it comes, the whole afterwards, and every way for it to end early."""

import threading

import grpc
import pytest

from lorikeet import Client, errors
from lorikeet.types import TokenLogprob
from lorikeet.v1 import inference_pb2


def test_text_arrives_while_the_server_still_writes(server, client, event):
    def generate(request, context):
        yield inference_pb2.GenerateResponse(text="Hello")
        # Goes on only once the caller holds the first piece.
        assert event.wait(server.patience)
        yield from server.answer(" world")

    server.inference.generate = generate
    generation = client.generate("hi")
    assert next(generation) == "Hello"
    event.set()
    assert list(generation) == [" world"]


def test_empty_deltas_are_not_text_but_are_chunks(server, client):
    server.inference.generate = lambda request, context: server.answer("", "a", "")
    assert list(client.generate("hi")) == ["a"]
    assert [chunk.text for chunk in client.generate("hi").chunks()] == ["", "a", "", ""]


def test_the_request_carries_prompt_adapter_and_options(server, client):
    client.generate("hi", adapter="acme@3", temperature=0.5, stop="END").text()
    (request,) = server.inference.requests
    assert (request.prompt, request.adapter_id) == ("hi", "acme@3")
    assert (request.sampling.temperature, request.sampling.stop) == (0.5, ["END"])


def test_the_result_tells_all(server, client):
    logprobs = inference_pb2.TokenLogprobs(
        chosen={"token_id": 5, "text": "a", "logprob": -0.5},
        top=[{"token_id": 6, "text": "b", "logprob": -0.25}],
    )

    def generate(request, context):
        messages = server.answer("a", adapter_version="acme@3", adapter_digest="ab", seed=99)
        messages[0].logprobs.append(logprobs)
        messages[-1].finished.stop = "END"
        return messages

    server.inference.generate = generate
    result = client.generate("hi").result()
    assert (result.text, result.adapter_version, result.adapter_digest, result.seed) == (
        "a",
        "acme@3",
        "ab",
        99,
    )
    (sample,) = result.samples
    assert (sample.token_ids, sample.finish_reason, sample.stop) == ((100,), "stop", "END")
    assert (sample.usage.prompt_tokens, sample.usage.cached_tokens, sample.usage.total_seconds) == (
        3,
        2,
        0.75,
    )
    assert sample.logprobs[0].chosen == TokenLogprob(5, "a", -0.5)
    assert sample.logprobs[0].top == (TokenLogprob(6, "b", -0.25),)


@pytest.mark.parametrize(("reason", "word"), [(1, "stop"), (2, "length"), (0, "unknown"), (99, "unknown")])
def test_finish_reasons_are_words(server, client, reason, word):
    server.inference.generate = lambda request, context: server.answer("a", reason=reason)
    assert client.generate("hi").result().samples[0].finish_reason == word
    assert [chunk.finish_reason for chunk in client.generate("hi").chunks()] == ["", word]


def test_the_whole_includes_what_was_already_read(client):
    generation = client.generate("hi")
    assert next(generation) == "Hello"
    assert generation.text() == "Hello world"
    assert generation.text() == generation.result().text == "Hello world"
    assert list(generation) == []


def test_samples_come_interleaved_through_chunks_only(server, client):
    def generate(request, context):
        first, second = server.answer("a", "b"), server.answer("x", index=1, seed=8)
        return [first[0], second[0], second[1], first[1], first[2]]

    server.inference.generate = generate
    generation = client.generate("hi", n=2)
    for misuse in (generation.text, lambda: next(generation)):
        with pytest.raises(ValueError, match="2 samples come interleaved"):
            misuse()
    assert [(chunk.index, chunk.text) for chunk in generation.chunks()] == [
        (0, "a"),
        (1, "x"),
        (1, ""),
        (0, "b"),
        (0, ""),
    ]
    result = generation.result()
    assert [(sample.text, sample.seed) for sample in result.samples] == [("ab", 7), ("x", 8)]


@pytest.mark.parametrize("read", [list, lambda g: g.text(), lambda g: g.result(), lambda g: list(g.chunks())])
def test_errors_are_typed_whichever_way_it_is_read(server, client, read):
    server.inference.generate = lambda request, context: server.refuse(
        context, grpc.StatusCode.NOT_FOUND, "no acme"
    )
    with pytest.raises(errors.NotFound, match="no acme"):
        read(client.generate("hi", adapter="acme"))


def test_an_error_in_the_middle_comes_after_the_text_and_stays(server, client):
    def generate(request, context):
        yield inference_pb2.GenerateResponse(text="Hello")
        server.refuse(context, grpc.StatusCode.INTERNAL, "engine lost")

    server.inference.generate = generate
    generation = client.generate("hi")
    assert next(generation) == "Hello"
    for read in (generation.__next__, generation.text, generation.result):
        with pytest.raises(errors.ServerError, match="engine lost"):
            read()


def test_a_stream_that_ends_unfinished_is_a_server_error(server, client):
    server.inference.generate = lambda request, context: server.answer("Hello")[:1]
    with pytest.raises(errors.ServerError, match="ended before sample 0 was finished"):
        client.generate("hi").text()
    with pytest.raises(errors.ServerError, match="ended before sample 0, 1 was finished"):
        client.generate("hi", n=2).result()


def test_a_sample_nobody_asked_for_is_a_server_error(server, client):
    server.inference.generate = lambda request, context: server.answer("x", index=3)
    generation = client.generate("hi")
    for _ in range(2):
        with pytest.raises(errors.ServerError, match="sample 3"):
            generation.text()


def test_wrong_options_fail_before_anything_is_sent(server, client):
    with pytest.raises(errors.InvalidRequest, match=r"sampling.top_k: cannot be -1\."):
        client.generate("hi", top_k=-1)
    with pytest.raises(TypeError, match="max_new_tokens"):
        client.generate("hi", max_tokens=1)
    assert server.inference.requests == []


def endless(server, gone: threading.Event):
    """A stream whose only end is its caller's: `gone` is set when the server notices."""

    def generate(request, context):
        context.add_callback(gone.set)
        yield inference_pb2.GenerateResponse(text="Hello")
        assert gone.wait(server.patience)

    return generate


def test_cancel_ends_the_call_on_both_sides(server, client, event):
    server.inference.generate = endless(server, event)
    generation = client.generate("hi")
    assert next(generation) == "Hello"
    generation.cancel()
    assert event.wait(server.patience)
    with pytest.raises(errors.Cancelled):
        next(generation)


def test_cancel_from_another_thread_wakes_the_reader(server, client, event):
    server.inference.generate = endless(server, event)
    generation = client.generate("hi")
    assert next(generation) == "Hello"
    canceller = threading.Thread(target=generation.cancel)
    canceller.start()
    with pytest.raises(errors.Cancelled):
        generation.text()
    canceller.join()


def test_leaving_the_block_cancels(server, client, event):
    server.inference.generate = endless(server, event)
    with client.generate("hi") as generation:
        assert next(generation) == "Hello"
    assert event.wait(server.patience)


def test_breaking_out_of_the_loop_cancels(server, client, event):
    server.inference.generate = endless(server, event)
    for _ in client.generate("hi"):
        break
    assert event.wait(server.patience)


def test_closing_the_client_cancels(server, event):
    server.inference.generate = endless(server, event)
    with Client(server.target) as client:
        generation = client.generate("hi")
        assert next(generation) == "Hello"
    assert event.wait(server.patience)
    with pytest.raises(errors.Cancelled):
        next(generation)


def test_cancelling_what_is_finished_keeps_the_result(client):
    with client.generate("hi") as generation:
        generation.text()
        generation.cancel()
    assert generation.text() == "Hello world"


def test_the_timeout_becomes_the_deadline(server, client, event):
    server.inference.generate = endless(server, event)
    with pytest.raises(errors.DeadlineExceeded):
        client.generate("hi", timeout=0.2).text()
    assert event.wait(server.patience)


def test_two_generations_run_at_once(server, client):
    both = threading.Barrier(2)

    def generate(request, context):
        both.wait(server.patience)
        return server.answer(request.prompt)

    server.inference.generate = generate
    first, second = client.generate("a"), client.generate("b")
    assert (first.text(), second.text()) == ("a", "b")
