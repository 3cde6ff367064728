"""What lies exactly on a limit is served, and a wait has an end."""

from typing import Any

import grpc
import pytest

from lorikeet.v1 import inference_pb2 as pb
from server.text import Text
from tests.server.front.house import PATIENCE, House, Open, refused, script


@pytest.mark.parametrize(
    "sampling",
    [
        {"n": 8},
        {"stop": ["a" * 256, "b" * 256, "c" * 256, "d" * 256]},
        {"stop_token_ids": list(range(16))},
        {"temperature": 2.0, "top_p": 1.0, "min_p": 1.0, "top_k": 512},
        {"repetition_penalty": 10.0, "presence_penalty": -2.0, "frequency_penalty": 2.0},
        {"seed": 2**64 - 1},
    ],
    ids=lambda sampling: ",".join(sampling),
)
def test_what_lies_on_a_limit_is_served(sampling: dict[str, Any], house: House, text: Text) -> None:
    house.link.script = script(text, "hello")
    assert house.generate(**sampling)[-1].HasField("finished")


def test_a_request_that_gets_no_turn_is_refused_in_time_and_given_up(open_house: Open) -> None:
    house = open_house(queue_seconds=0.1)
    refusal = refused(lambda: house.inference.Generate(pb.GenerateRequest(prompt="x"), timeout=PATIENCE))
    assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal.retries
    (request,) = house.link.submitted
    house.link.wait(lambda: request.id in house.link.aborted)
