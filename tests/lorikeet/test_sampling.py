"""From keyword arguments to the message on the wire."""

import array
import math

import pytest

from lorikeet.errors import InvalidRequest
from lorikeet.sampling import Sampling, build_request
from lorikeet.v1 import inference_pb2


def refused(*arguments):
    with pytest.raises(InvalidRequest) as caught:
        build_request(*arguments)
    return caught.value.violations


def test_the_options_are_the_fields_of_the_contract():
    assert list(Sampling.__annotations__) == [f.name for f in inference_pb2.Sampling.DESCRIPTOR.fields]


def test_what_is_unset_is_not_sent():
    request = build_request("hi", "", {"seed": None})
    assert request.prompt == "hi"
    assert request.sampling.ListFields() == []


def test_zero_is_sent():
    request = build_request("hi", "acme@3", {"temperature": 0, "seed": 0, "logprobs": 0, "ignore_eos": False})
    assert request.adapter_id == "acme@3"
    assert all(request.sampling.HasField(name) for name in ("temperature", "seed", "logprobs", "ignore_eos"))


def test_every_option_arrives():
    options: Sampling = {
        "temperature": 0.5,
        "top_k": 5,
        "top_p": 0.75,
        "min_p": 0.25,
        "repetition_penalty": 1.5,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.5,
        "seed": 2**64 - 1,
        "max_new_tokens": 9,
        "min_new_tokens": 2,
        "stop": ["a", "b"],
        "stop_token_ids": [1, 2],
        "logprobs": 3,
        "ignore_eos": True,
        "n": 2,
    }
    sent = build_request("hi", "", options).sampling
    assert {f.name: v if isinstance(v, (int, float)) else list(v) for f, v in sent.ListFields()} == options


def test_a_lone_stop_string_is_one_stop():
    assert build_request("hi", "", {"stop": "END"}).sampling.stop == ["END"]


def test_a_list_of_turns_is_a_chat():
    turns = [{"role": "user", "content": "hi"}, {"content": "", "role": "assistant"}]
    sent = build_request(turns, "", {})
    assert sent.WhichOneof("input") == "chat"
    assert [(m.role, m.content) for m in sent.chat.messages] == [("user", "hi"), ("assistant", "")]


@pytest.mark.parametrize("ids", [[1, 2], (1, 2), range(1, 3), array.array("I", [1, 2])])
def test_whole_numbers_of_any_kind_are_token_ids(ids):
    sent = build_request(ids, "", {})
    assert sent.WhichOneof("input") == "token_ids"
    assert sent.token_ids.ids == [1, 2]


@pytest.mark.parametrize("prompt", [[], (), None, 7, {"role": "user"}, b"text"])
def test_other_prompts_are_refused(prompt):
    fields = {violation.field for violation in refused(prompt, "", {})}
    assert fields == {"prompt"}


@pytest.mark.parametrize("ids", [[1, -1], [2**32], [1, "2"], [1.5], [1, None]])
def test_wrong_token_ids_are_refused(ids):
    assert [violation.field for violation in refused(ids, "", {})] == ["token_ids"]


def test_every_malformed_turn_is_named():
    turns = [
        {"role": "user"},
        {"role": "user", "content": "ok"},
        {"role": "a", "content": "b", "name": "c"},
        "hi",
    ]
    fields = [violation.field for violation in refused(turns, "", {})]
    assert fields == ["chat.messages[0]", "chat.messages[2]", "chat.messages[3]"]
    assert refused([{"role": "user", "content": 5}], "", {})[0].field == "chat.messages[0].content"


def test_text_that_utf8_cannot_carry_is_refused():
    assert refused("\ud800", "", {})[0].field == "prompt"


def test_every_impossible_value_is_named_at_once():
    options = {"top_k": -1, "seed": 2**64, "temperature": "hot", "stop": [5], "top_p": 0.5}
    assert [violation.field for violation in refused("hi", "", options)] == [
        "sampling.top_k",
        "sampling.seed",
        "sampling.temperature",
        "sampling.stop",
    ]


def test_values_the_contract_can_carry_are_left_to_the_server():
    assert math.isnan(build_request("hi", "", {"temperature": math.nan}).sampling.temperature)


def test_an_unknown_option_is_a_type_error_with_a_hint():
    with pytest.raises(TypeError, match="unexpected option 'max_tokens'; did you mean 'max_new_tokens'"):
        build_request("hi", "", {"max_tokens": 5})
