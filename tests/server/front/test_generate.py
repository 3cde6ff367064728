"""Generate: what an answer looks like on the wire."""

import json
import threading
from typing import Any

import grpc
import msgspec
import pytest

from lorikeet.v1 import inference_pb2 as pb
from lorikeet.v1.inference_pb2_grpc import InferenceStub
from server.engine.messages import Logprobs, Started, Submit, Token
from server.job import SEED_STRIDE
from server.link import EngineLost
from server.text import Text
from tests.server.front.house import PATIENCE, READY, House, Item, batches, script
from tests.server.front.tiny import CONTEXT

RETRY = {"maxAttempts": 3, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1}
SERVICE_CONFIG = {
    "methodConfig": [{"name": [{}], "retryPolicy": {**RETRY, "retryableStatusCodes": ["UNAVAILABLE"]}}]
}
RETRYING = [("grpc.service_config", json.dumps(SERVICE_CONFIG))]


def joined(messages: list[Any], index: int = 0) -> str:
    return "".join(message.text for message in messages if message.index == index)


def ids_of(messages: list[Any], index: int = 0) -> list[int]:
    return [token_id for message in messages if message.index == index for token_id in message.token_ids]


def test_a_whole_answer(house: House, text: Text) -> None:
    house.link.script = script(text, "the cat sat", finish="length")
    messages = house.generate("hello world", seed=7)
    first, last = messages[0], messages[-1]
    assert joined(messages) == "the cat sat"
    assert ids_of(messages) == text.backend.encode("the cat sat", add_special_tokens=False).ids
    num_prompt = len(text.encode("hello world"))
    assert first.started == pb.Started(prompt_tokens=num_prompt, cached_tokens=3, seed=7)
    assert [message.HasField("started") for message in messages[1:]] == [False] * (len(messages) - 1)
    assert [message.HasField("finished") for message in messages[:-1]] == [False] * (len(messages) - 1)
    assert last.finished.reason == pb.FINISH_REASON_LENGTH
    usage = last.finished.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens) == (
        num_prompt,
        len(ids_of(messages)),
        3,
    )
    assert (usage.queue_seconds, usage.load_seconds) == (0.25, 0.125)
    assert 0 < usage.first_token_seconds <= usage.total_seconds < PATIENCE
    assert house.link.aborted == []


def test_what_the_engine_is_told(house: House, text: Text) -> None:
    house.link.script = script(text, "x")
    house.generate(
        "hello", temperature=0.5, top_k=4, top_p=0.5, min_p=0.25, repetition_penalty=1.5, presence_penalty=1,
        frequency_penalty=-1, seed=9, max_new_tokens=5, min_new_tokens=2, stop_token_ids=[8], logprobs=3,
    )  # fmt: skip
    submit = house.link.submitted[0]
    assert (submit.tenant, submit.adapter, submit.tokens) == ("default", "", text.encode("hello"))
    sampling = submit.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 4, 0.5, 0.25)
    assert (sampling.repetition_penalty, sampling.presence_penalty, sampling.frequency_penalty) == (
        1.5,
        1,
        -1,
    )
    assert (sampling.seed, sampling.max_new_tokens, sampling.min_new_tokens) == (9, 5, 2)
    # The model's files name 1 and 5, the tokenizer 1, the request 8.
    assert (sampling.stop_token_ids, sampling.logprobs) == ((1, 5, 8), 3)


def test_defaults_and_ignored_ends(house: House, text: Text) -> None:
    house.link.script = script(text, "x")
    house.generate("hello", ignore_eos=True)
    sampling = house.link.submitted[0].sampling
    assert (sampling.temperature, sampling.top_p, sampling.repetition_penalty) == (0, 1, 1)
    assert (sampling.stop_token_ids, sampling.logprobs, sampling.min_new_tokens) == ((), None, 0)


def test_an_answer_never_goes_past_the_context(house: House, text: Text) -> None:
    house.link.script = script(text, "x")
    house.generate("hello", max_new_tokens=10_000, min_new_tokens=1000)
    submit = house.link.submitted[0]
    assert submit.sampling.max_new_tokens == CONTEXT - len(submit.tokens) == submit.sampling.min_new_tokens


def test_a_small_cache_bounds_answers_too(house: House, text: Text) -> None:
    house.link.script = script(text, "x")
    house.link.ready = msgspec.structs.replace(READY, num_blocks=5)
    house.generate("hello")
    submit = house.link.submitted[0]
    assert submit.sampling.max_new_tokens == 5 * 4 - len(submit.tokens)


def test_token_ids_and_chat(house: House, text: Text) -> None:
    house.link.script = script(text, "x")
    list(house.inference.Generate(pb.GenerateRequest(token_ids=pb.TokenIds(ids=[7, 8]))))
    chat = pb.Chat(messages=[pb.ChatMessage(role="user", content="hello")])
    list(house.inference.Generate(pb.GenerateRequest(chat=chat)))
    expected = text.backend.encode("<s>user: hello</s>assistant: ", add_special_tokens=False).ids
    assert [submit.tokens for submit in house.link.submitted] == [[7, 8], expected]
    assert list(house.inference.Tokenize(pb.TokenizeRequest(chat=chat)).token_ids) == expected


def test_tokenize_gives_what_generate_sees(house: House, text: Text) -> None:
    house.link.script = script(text, "x")
    house.generate("hello world")
    answer = house.inference.Tokenize(pb.TokenizeRequest(text="hello world"))
    assert list(answer.token_ids) == house.link.submitted[0].tokens
    assert answer.token_ids[0] == 0, "the beginning-of-sequence token is part of a prompt"


def test_a_long_prompt_is_tokenized_off_the_loop(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.link.ready = msgspec.structs.replace(READY, max_context=1000, num_blocks=1000)
    prompt = "the cat sat on the mat" * 200
    threads: list[str] = []
    used = house.front._inference._texts.base
    encode = used.encode

    def noting(prompt: str, special: bool) -> list[int]:
        threads.append(threading.current_thread().name)
        return encode(prompt, special)

    monkeypatch.setattr(used, "encode", noting)
    answer = house.inference.Tokenize(pb.TokenizeRequest(text=prompt))
    assert len(answer.token_ids) > 1000
    assert threads[0].startswith("asyncio_")


def test_an_end_token_is_listed_and_silent(house: House, text: Text) -> None:
    def answer(request: Submit) -> list[Item]:
        ids = text.backend.encode("hello", add_special_tokens=False).ids
        return batches(request, [*ids, 5], finish="stop")

    house.link.script = answer
    messages = house.generate()
    assert joined(messages) == "hello"
    assert ids_of(messages)[-1] == 5
    assert messages[-1].finished.reason == pb.FINISH_REASON_STOP
    assert messages[-1].finished.stop == ""
    assert messages[-1].finished.usage.completion_tokens == len(ids_of(messages))


@pytest.mark.parametrize("size", [1, 2, 3, 50])
def test_stop_strings_across_borders(house: House, text: Text, size: int) -> None:
    answer = "the cat sat on the mat, hello world"
    house.link.script = script(text, answer, size)
    messages = house.generate(stop=["zzz", "on the m", "sat on the mat?"])
    assert joined(messages) == "the cat sat "
    assert messages[-1].finished.reason == pb.FINISH_REASON_STOP
    assert messages[-1].finished.stop == "on the m"
    ids = ids_of(messages)
    assert "on the m" in text.backend.decode(ids)
    assert "on the m" not in text.backend.decode(ids[:-1])
    assert messages[-1].finished.usage.completion_tokens == len(ids)


def test_a_stop_string_aborts_the_sequence(house: House, text: Text) -> None:
    house.link.script = lambda request: script(text, "hello world the cat")(request)[:-1]
    assert house.generate(stop=["wor"])[-1].finished.stop == "wor"
    house.link.wait(lambda: house.link.aborted == [house.link.submitted[0].id])


def test_what_looks_like_a_stop_comes_out_at_the_end(house: House, text: Text) -> None:
    house.link.script = script(text, "hello wor")
    messages = house.generate(stop=["world!"])
    assert joined(messages) == "hello wor"
    assert messages[-1].finished.reason == pb.FINISH_REASON_LENGTH


def test_characters_stay_whole(house: House, text: Text) -> None:
    house.link.script = script(text, "日本🙂")
    messages = house.generate()
    assert joined(messages) == "日本🙂"
    assert all("\ufffd" not in message.text for message in messages)


def test_samples_have_seeds_and_messages_of_their_own(house: House, text: Text) -> None:
    answers = iter(["the cat", "hello", "mat"])
    house.link.script = lambda request: script(text, next(answers))(request)
    messages = house.generate(n=3, seed=11)
    assert sorted(joined(messages, index) for index in range(3)) == ["hello", "mat", "the cat"]
    seeds = {message.index: message.started.seed for message in messages if message.HasField("started")}
    assert seeds == {index: (11 + index * SEED_STRIDE) % 2**64 for index in range(3)}
    assert seeds[0] == 11
    assert sorted(submit.sampling.seed for submit in house.link.submitted) == sorted(seeds.values())
    assert sorted(message.index for message in messages if message.HasField("finished")) == [0, 1, 2]


def test_a_seed_is_drawn_and_told(house: House, text: Text) -> None:
    house.link.script = script(text, "x")
    seeds = [house.generate()[0].started.seed for _ in range(3)]
    assert len(set(seeds)) == 3
    assert seeds == [submit.sampling.seed for submit in house.link.submitted]


def test_logprobs(house: House, text: Text) -> None:
    first, second = text.backend.encode("日", add_special_tokens=False).ids[:2]

    def answer(request: Submit) -> list[Item]:
        start = Started(0, 0.0, 0.0)
        return [
            [
                Token(request.id, first, "", start, Logprobs(-0.5, [(first, -0.5), (second, -1.5)])),
                Token(request.id, 40, "length", None, Logprobs(-2.0, [])),
            ]
        ]

    house.link.script = answer
    (message,) = house.generate(logprobs=2)
    assert [entry.chosen.logprob for entry in message.logprobs] == [-0.5, -2.0]
    assert [(top.token_id, top.logprob) for top in message.logprobs[0].top] == [(first, -0.5), (second, -1.5)]
    assert message.logprobs[0].chosen.text == "\ufffd"
    assert message.logprobs[1].chosen.text == text.backend.decode([40])


def test_logprobs_end_with_the_stop(house: House, text: Text) -> None:
    def answer(request: Submit) -> list[Item]:
        ids = text.backend.encode("hello world", add_special_tokens=False).ids
        return [[Token(request.id, each, "", None, Logprobs(-1.0, [])) for each in ids]]

    house.link.script = answer
    (message,) = house.generate(logprobs=0, stop=["llo"])
    assert len(message.logprobs) == len(message.token_ids) < len(text.encode("hello world"))


def test_tokens_that_come_together_share_a_message(house: House, text: Text) -> None:
    house.link.script = script(text, "the cat sat on the mat", size=4)
    messages = house.generate()
    assert all(len(message.token_ids) <= 4 for message in messages)
    assert [len(message.token_ids) for message in messages[:-1]] == [4] * (len(messages) - 1)


def test_the_header_comes_with_the_first_token(house: House, text: Text) -> None:
    """Before that a client may retry on its own, which the header would forbid."""
    answers = iter([lambda request: [EngineLost("gone")], script(text, "hello")])
    house.link.script = lambda request: next(answers)(request)
    with grpc.insecure_channel(f"127.0.0.1:{house.front.port}", RETRYING) as channel:
        messages = list(InferenceStub(channel).Generate(pb.GenerateRequest(prompt="x"), timeout=PATIENCE))
    assert joined(messages) == "hello"
    assert len(house.link.submitted) == 2


def test_the_model_describes_itself(house: House) -> None:
    model = house.inference.GetModel(pb.GetModelRequest())
    assert model == pb.Model(
        name="tiny-llama",
        family="llama",
        quantization="none",
        dtype="float32",
        vocab_size=512,
        max_context=CONTEXT,
        max_rank=16,
        adapter_slots=8,
        cache_tokens=400,
        has_chat_template=True,
        server_version="0.1.0",
    )
