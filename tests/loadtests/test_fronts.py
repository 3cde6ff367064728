"""What fronts cost, counted at a real server."""

from pathlib import Path

from loadtests.fronts import Cost, measure
from loadtests.random_house import write_house


def test_the_busiest_front_is_the_limit() -> None:
    cost = Cost(2, tokens=1000, seconds={"front 1": 0.1, "front 2": 0.2, "engine": 9.0})
    assert cost.most == 5000.0
    assert cost.microseconds("front 1") == 100.0


def test_every_process_is_counted_and_every_token_comes(tmp_path: Path) -> None:
    base = write_house("tiny", tmp_path)
    cost = measure(2, base, tmp_path, streams=8, tokens=6, rounds=2)
    assert cost.tokens == 8 * 6 * 2
    assert cost.seconds.keys() == {"front 1", "front 2", "engine"}
    assert cost.seconds["front 1"] > 0
