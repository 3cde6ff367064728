"""Deadlines: refused when they cannot be kept, told to the engine, and never worked past."""

import time
from typing import Any

import grpc
import pytest

from lorikeet.v1 import inference_pb2 as pb
from server.engine.messages import Failure
from server.errors import DeadlineUnreachable
from server.forecast import FRESH_SECONDS, MIN_WAITS, Forecast
from server.text import Text
from tests.server.front.house import PATIENCE, House, refused, script

Code = grpc.StatusCode


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def learned(clock: Clock, seconds: float = 5.0) -> Forecast:
    forecast = Forecast(clock)
    for number in range(MIN_WAITS):
        forecast.learn("acme", 0, seconds + number)
    return forecast


def test_only_what_is_clearly_impossible_is_refused() -> None:
    clock = Clock()
    forecast = learned(clock)
    with pytest.raises(DeadlineUnreachable, match=r"wait at least 5\.00 s"):
        forecast.require("acme", 0, num_queued=3, left=4.9)
    for tenant, priority, num_queued, left in (
        ("acme", 0, 3, 5.0),
        ("acme", 0, 3, None),
        ("acme", 0, 0, 0.1),
        ("acme", 1, 3, 0.1),
        ("other", 0, 3, 0.1),
    ):
        forecast.require(tenant, priority, num_queued, left)
    forecast.learn("acme", 0, 0.05)
    forecast.require("acme", 0, 3, 0.1)


def test_old_waits_and_few_waits_say_nothing() -> None:
    clock = Clock()
    forecast = learned(clock)
    clock.now += FRESH_SECONDS + 1
    forecast.require("acme", 0, 3, 0.1)
    forecast.learn("acme", 0, 9.0)
    forecast.require("acme", 0, 3, 0.1)


def test_lines_are_forgotten() -> None:
    clock = Clock()
    forecast = Forecast(clock)
    for number in range(5000):
        clock.now += 1.0
        forecast.learn(f"t{number}", 0, 1.0)
    assert len(forecast._waits) <= 1025


def test_a_hopeless_request_is_refused_before_any_work(house: House) -> None:
    first = house.inference.Generate(pb.GenerateRequest(prompt="x"), timeout=PATIENCE)
    house.link.wait(lambda: len(house.link.submitted) == 1)
    for _ in range(MIN_WAITS):
        house.front._desk.forecast.learn("default", 0, 30.0)
    began = time.monotonic()
    refusal = refused(lambda: house.generate(timeout=5.0))
    assert (refusal.code, refusal.reason) == (Code.DEADLINE_EXCEEDED, "DEADLINE_UNREACHABLE")
    assert time.monotonic() - began < 4.0
    assert len(house.link.submitted) == 1
    first.cancel()


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.05, 0.2])
def test_no_work_goes_on_past_a_deadline(house: House, seconds: float) -> None:
    refusal = refused(lambda: house.generate(timeout=seconds))
    assert refusal.code is Code.DEADLINE_EXCEEDED
    house.loop.until(lambda: house.front._generating.num_live == 0)
    house.link.wait(lambda: len(house.link.aborted) == len(house.link.submitted))
    assert all(request.deadline - request.arrived_at <= seconds for request in house.link.submitted)


def test_the_engines_word_is_the_same_status(house: House, text: Text) -> None:
    begun = script(text, "hello world")
    house.link.script = lambda request: [*begun(request)[:1], Failure(request.id, "deadline", "")]
    answers: Any = house.inference.Generate(pb.GenerateRequest(prompt="x"), timeout=PATIENCE)
    assert next(answers).HasField("started")
    refusal = refused(lambda: answers)
    assert (refusal.code, refusal.reason) == (Code.DEADLINE_EXCEEDED, "DEADLINE_PASSED")
