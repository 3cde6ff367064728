"""Every scenario is played at its small scale against a real server."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadtests.drive.fleet import Watch
from loadtests.figures import LoadTestError
from loadtests.scenario.options import RunOptions
from loadtests.scenario.place import Place
from loadtests.scenario.play import Played, play
from loadtests.scenario.spec import Bar, Scenario, names, read_scenario

SMALL = RunOptions(serve=True, scale="small")


def nobody(title: str, total: int) -> nullcontext[Watch | None]:
    return nullcontext()


def play_small(name: str, place: Place, **changes: Any) -> Played:
    return play(replace(read_scenario(name, "small"), **changes), place, SMALL, nobody)


@pytest.mark.parametrize("name", names())
def test_scenario(name: str, place: Place) -> None:
    played = play_small(name, place)
    assert played.verdicts and played.is_passed, [v for v in played.verdicts if not v.is_met]
    # What the server's own page said beside it.
    assert played.figures["adapter_loads"] >= 0
    answered = {record.digest for record in played.run.records if record.digest}
    assert {digest for sample in played.run.metrics for digest in sample.resident} & answered


def test_a_bar_that_is_not_met_is_a_fail(place: Place) -> None:
    bars = {"failed": Bar(most=0.0), "token_throughput": Bar(least=1e9)}
    played = play_small("steady", place, bars=bars)
    assert [v.is_met for v in played.verdicts] == [True, False] and not played.is_passed


def test_what_is_no_figure_cannot_have_a_bar(place: Place) -> None:
    with pytest.raises(LoadTestError, match="there are not: beauty"):
        play_small("steady", place, bars={"beauty": Bar(least=1.0)})


def test_a_servers_engine_is_killed_only_where_it_is_ours(place: Place) -> None:
    with pytest.raises(LoadTestError, match="only --serve allows"):
        play_small("engine-kill", replace(place, server=None))


def write(folder: Path, text: str) -> Scenario:
    (file := folder / "mine.toml").write_text(text)
    return read_scenario(str(file), "small")


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    full, small = "[workload.arrivals]\nrate = 3", "[small.workload.arrivals]\nrate = 2"
    scenario = write(tmp_path, f'summary = "mine"\n{full}\n{small}\n[baseline.popularity]\nadapters = 1')
    assert (scenario.name, scenario.workload.arrivals.rate) == ("mine", 2.0)
    assert scenario.baseline is not None and scenario.baseline.popularity.adapters == 1
    assert scenario.baseline.arrivals.rate == 2.0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x =", "not valid TOML"),
        ("[workload.arrival]\nrate = 1", r"workload.arrival: unknown \(did you mean arrivals\?\)"),
        ('[workload.arrivals]\nrate = "fast"', "workload.arrivals.rate: must be a number, not 'fast'"),
        ("[workload.arrivals]\nrate = true", "must be a number, not True"),
        ("[workload.arrivals]\nrate = -1", "rate -1.0 must be at least"),
        ("[bars]\nfailed = 3", "bars.failed: must be a table or a list, not 3"),
        ("[[workload.tenants]]\nname = 3", r"workload.tenants\[0\].name: must be text"),
        ("workload = 3", "workload: must be a table"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(LoadTestError, match=told):
        write(tmp_path, f'summary = "mine"\n{text}')


def test_no_such_scenario() -> None:
    with pytest.raises(LoadTestError, match="did you mean steady?"):
        read_scenario("stedy", "full")


def test_full_scale_files_can_be_read() -> None:
    for name in names():
        scenario = read_scenario(name, "full")
        assert scenario.bars and scenario.workload.arrivals.duration >= 60


@pytest.mark.parametrize(
    ("bar", "value", "is_met"),
    [
        (Bar(most=1.0), 1.0, True),
        (Bar(most=1.0), 1.1, False),
        (Bar(least=1.0), 0.9, False),
        (Bar(least=0.0, most=2.0), 1.0, True),
        (Bar(most=1.0), float("nan"), False),
    ],
)
def test_bars(bar: Bar, value: float, is_met: bool) -> None:
    assert bar.holds(value) is is_met and bar.is_there


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "--target or --serve"),
        ({"serve": True, "target": "x"}, "one of them"),
        ({"serve": True, "out": "x.csv"}, "must end in"),
        ({"serve": True, "json": "/no/such/x"}, "no such folder"),
        ({"serve": True, "keys": "/no/such"}, "no such file"),
        ({"serve": True, "scale": "huge"}, "none of full, small"),
    ],
)
def test_options_are_checked_before_anything_is_driven(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RunOptions(**options)
