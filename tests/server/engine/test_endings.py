"""Cancelled or out of time at any moment: what a sequence held is free by the next step, block by block."""

import random
import time
from typing import Any

import msgspec
import pytest

from server.engine.messages import Sampling, Submit
from tests.toys import Driven, drive

PROMPT = list(range(20, 60))


def books(driven: Driven) -> tuple[int, int, int]:
    stats = driven.engine.stats()
    return stats.blocks_used, stats.running, stats.waiting


@pytest.mark.parametrize("overlap", ["off", "on"])
@pytest.mark.parametrize(
    "rounds", [150, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(3600)])]
)
def test_a_cancelled_sequence_is_gone_with_the_next_step(zoo: Any, overlap: str, rounds: int) -> None:
    """Waiting, loading, in its prompt, between two tokens; the books are exact each time."""
    numbers = random.Random(rounds)
    driven = drive(zoo.base, zoo.store, overlap=overlap, step_tokens=16, max_running=4)
    digests = ["", *zoo.digests.values()]
    for _ in range(rounds):
        asked = [
            driven.submit(PROMPT[: numbers.randrange(1, 40)], numbers.choice(digests), max_new_tokens=200)
            for _ in range(numbers.randrange(1, 7))
        ]
        for _ in range(numbers.randrange(6)):
            driven.step()
        for request in asked:
            driven.abort(request)
        driven.step()
        assert books(driven) == (0, 0, 0)
    driven.drain()
    assert driven.failures == {}


@pytest.mark.parametrize("overlap", ["off", "on"])
def test_a_deadline_ends_what_waits_and_what_runs_with_the_next_step(
    zoo: Any, monkeypatch: pytest.MonkeyPatch, overlap: str
) -> None:
    driven = drive(zoo.base, zoo.store, overlap=overlap, max_running=2)
    now = time.monotonic()
    give = driven.engine.give
    # The test's own clock says when.
    monkeypatch.setattr("server.engine.scheduler.time.monotonic", lambda: now)

    def submit(seconds: float) -> int:
        monkeypatch.setattr(
            driven.engine,
            "give",
            lambda request: give(msgspec.structs.replace(request, deadline=now + seconds)),
        )
        return driven.submit(PROMPT, max_new_tokens=200)

    early, running, waiting = submit(0.001), submit(2.0), submit(1.0)
    kept = submit(1000.0)
    driven.step()
    assert driven.failures == {}
    now += 0.5
    driven.step()
    assert {i: f.reason for i, f in driven.failures.items()} == {early: "deadline"}
    now += 1.0
    driven.step()
    assert set(driven.failures) == {early, waiting}
    now += 1.0
    driven.step()
    assert set(driven.failures) == {early, waiting, running}
    given = {request: len(driven.tokens[request]) for request in (early, running, waiting)}
    driven.drain()
    assert {request: len(driven.tokens[request]) for request in given} == given, "no work past a deadline"
    assert len(driven.tokens[kept]) == 200
    assert books(driven) == (0, 0, 0)


def test_deadlines_of_those_that_ended_are_forgotten(zoo: Any) -> None:
    driven = drive(zoo.base, zoo.store)
    deadlines = driven.engine._scheduler._deadlines
    for number in range(5000):
        deadlines.add(
            Submit(
                id=-number,
                tenant="t",
                adapter="",
                tokens=[1],
                sampling=Sampling(),
                arrived_at=0.0,
                deadline=1e12 + number,
            )
        )
    assert len(deadlines._heap) <= 1024
    assert list(deadlines.passed(2e12)) == []
