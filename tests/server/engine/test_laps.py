"""A slow turn says where its time went; others say nothing."""

import pytest

from server.engine import laps
from server.engine.laps import Laps


def turn(seconds: dict[str, float], clock: list[float]) -> None:
    one = Laps()
    one.start()
    for part, each in seconds.items():
        clock[0] += each
        one.lap(part)
    one.end(3, 40)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(laps.time, "monotonic", lambda: now[0])
    return now


def test_a_slow_turn_says_which_part_it_was(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    turn({"scheduled": 0.002, "launched": 1.9, "committed": 0.01}, clock)
    (record,) = caplog.records
    said = "a turn over 3 sequences and 40 tokens took 1912 ms: scheduled 2, launched 1900, committed 10"
    assert record.getMessage().startswith(said)


def test_a_turn_as_others_says_nothing(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    turn({"scheduled": 0.002, "launched": 0.005, "committed": 0.01}, clock)
    assert not caplog.records
