"""What is drawn has the distribution that was asked for. Seeds are fixed: nothing here can fall otherwise."""

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.random import default_rng

from loadtests.figures import LoadTestError
from loadtests.workload.draw import arrival_times, draw_lengths, draw_ranks, probabilities, read_trace
from loadtests.workload.spec import Answers, Arrivals, Popularity


@pytest.mark.parametrize(("kind", "cv"), [("poisson", 1.0), ("gamma", 0.5), ("gamma", 1.0), ("gamma", 4.0)])
def test_gaps_have_the_rate_and_the_spread_that_were_asked_for(kind: str, cv: float) -> None:
    times = arrival_times(Arrivals(kind=kind, rate=50.0, cv=cv, duration=2000.0), default_rng(3))
    gaps = np.diff(times)
    assert times[0] >= 0 and times[-1] < 2000 and (gaps >= 0).all()
    assert len(times) / 2000 == pytest.approx(50, rel=0.05)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_bursts_come_at_once() -> None:
    times = arrival_times(Arrivals(kind="bursts", rate=100.0, burst=20, duration=500.0), default_rng(0))
    together = np.unique(times, return_counts=True)[1]
    assert (together % 20 == 0).all()
    assert len(times) / 500 == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize(
    ("popularity", "wanted"),
    [
        (Popularity(kind="uniform", adapters=4), [0.25] * 4),
        (Popularity(kind="one", adapters=3), [1.0, 0.0, 0.0]),
        (Popularity(kind="zipf", adapters=3, alpha=1.0), [6 / 11, 3 / 11, 2 / 11]),
        (Popularity(kind="power", adapters=4, alpha=1.0), [0.25] * 4),
        (Popularity(kind="power", adapters=4, alpha=0.5), [0.5, 0.207, 0.159, 0.134]),
    ],
)
def test_popularity(popularity: Popularity, wanted: list[float]) -> None:
    assert probabilities(popularity) == pytest.approx(wanted, abs=1e-3)
    drawn = np.bincount(draw_ranks(popularity, 20000, default_rng(1)), minlength=len(wanted)) / 20000
    assert drawn == pytest.approx(wanted, abs=0.02)


def test_power_is_what_s_lora_draws() -> None:
    """It takes floor(n * X) with numpy's power distribution."""
    theirs = (default_rng(0).power(0.3, 50000) * 10).astype(int)
    ours = draw_ranks(Popularity(kind="power", adapters=10, alpha=0.3), 50000, default_rng(1))
    assert np.bincount(theirs) / 50000 == pytest.approx(np.bincount(ours) / 50000, abs=0.01)


def test_part_of_the_requests_goes_to_the_base() -> None:
    assert (draw_ranks(Popularity(adapters=0), 10, default_rng(0)) == -1).all()
    ranks = draw_ranks(Popularity(adapters=4, base_share=0.3), 20000, default_rng(0))
    assert (ranks == -1).mean() == pytest.approx(0.3, abs=0.02)


def test_lengths(tmp_path: Path) -> None:
    (tmp_path / "lengths").write_text("3\n5\n")
    drawn = {
        kind: draw_lengths(Answers(kind=kind, tokens=100, low=10, high=400, file=file), 20000, default_rng(0))
        for kind, file in (("fixed", ""), ("uniform", ""), ("lognormal", ""), ("file", f"{tmp_path}/lengths"))
    }
    assert set(drawn["fixed"]) == {100}
    assert (drawn["uniform"].min(), drawn["uniform"].max()) == (10, 399)
    assert np.median(drawn["lognormal"]) == pytest.approx(100, rel=0.05)
    assert (drawn["lognormal"].min(), drawn["lognormal"].max()) == (10, 400)
    assert set(drawn["file"]) == {3, 5}


@pytest.mark.parametrize(("text", "told"), [("1\nx\n", "whole numbers"), ("", "from 1"), ("0\n", "from 1")])
def test_a_file_without_lengths_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "lengths").write_text(text)
    with pytest.raises(LoadTestError, match=told):
        draw_lengths(Answers(kind="file", file=f"{tmp_path}/lengths"), 2, default_rng(0))


def test_a_trace_starts_at_its_first_request(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ({"at": 107.5}, {"at": 100, "tenant": "b"})))
    assert read_trace(file) == [{"at": 0.0, "tenant": "b"}, {"at": 7.5}]


@pytest.mark.parametrize("line", ["[]", "{}", '{"at": "soon"}', "{"])
def test_a_line_that_is_no_request_is_named(line: str, tmp_path: Path) -> None:
    (file := tmp_path / "trace.jsonl").write_text(f'{{"at": 0}}\n{line}\n')
    with pytest.raises(LoadTestError, match="line 2"):
        read_trace(file)
