"""Works of known length, one after the other in every round."""

import pytest
import torch

from loadtests import turns
from loadtests.turns import Spread, Times, Work, in_turns, ratios


def test_every_round_has_every_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [0.0], list[str]()

    def work(name: str, seconds: float) -> None:
        said.append(name)
        now[0] += seconds

    monkeypatch.setattr(turns.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(turns.time, "process_time", lambda: now[0] / 2)
    works = [Work(lambda: work("a", 2.0), 2), Work(lambda: work("b", 3.0), 1)]
    assert in_turns(works, torch.device("cpu"), rounds=2) == [
        Times([2.0, 2.0], [1.0, 1.0]),
        Times([3.0, 3.0], [1.5, 1.5]),
    ]
    assert said == ["a", "a", "b"] * 3


def test_a_ratio_is_of_the_same_round() -> None:
    found = ratios([2.0, 20.0, 3.0], [1.0, 10.0, 1.0], 4.0)
    assert found == Spread(8.0, 8.0, 12.0)
    assert str(found) == "8.00 (8.00 to 12.00)"
