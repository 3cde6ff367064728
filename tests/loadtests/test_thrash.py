"""A storm over more adapters than there is room for, played small against a real server."""

import json
from pathlib import Path

import pytest

from loadtests.thrash import Heard, Storm, ThrashConfig, judge, run, summarize


def test_a_small_storm_is_answered_and_reported(tmp_path: Path) -> None:
    config = ThrashConfig(
        model="tiny",
        device="cpu",
        adapters="2,4",
        room=2,
        rank=4,
        rate=4,
        seconds=1,
        prompt=12,
        answer=4,
        host_cache_bytes=1 << 20,
        json=str(tmp_path / "figures.json"),
    )
    assert run(config) == 0
    storms = json.loads((tmp_path / "figures.json").read_text())["storms"]
    assert [storm["adapters"] for storm in storms] == [2, 4]
    assert all(0 < storm["first_p50"] <= storm["first_p99"] and storm["requests"] > 0 for storm in storms)


def test_figures_are_of_what_was_heard() -> None:
    found = summarize(3, [Heard(0.0, [0.010, 0.012]), Heard(5.0, [0.030, 0.034])], seconds=2.0)
    assert (found.first_p50, found.throughput) == (pytest.approx(20.0), 2.0)
    assert 2.0 < found.inter_p99 <= 4.0


@pytest.mark.parametrize(("slow", "missed"), [(1.0, 0), (1.3, 2), (3.0, 3)])
def test_bars_fail_by_what_is_worse_than_the_first(slow: float, missed: int) -> None:
    few = Storm(8, 10, 30.0, 60.0, 8.0, 500.0)
    many = Storm(16, 10, 30.0 * slow, 60.0, 8.0 * slow, 500.0 / slow)
    assert sum(not met for *_, met in judge([few, many], has_goals=True)) == missed
    assert judge([few, many], has_goals=False) == []


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="no numbers with commas"):
        ThrashConfig(adapters="8,many")
