"""Every scenario is played at its small scale against a real server."""

import json
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest

from loadtests.drive.grpc_target import GrpcTarget
from loadtests.drive.http_target import HttpTarget
from loadtests.drive.records import Record, Run
from loadtests.drive.store import load
from loadtests.figures import LoadTestError
from loadtests.scenario.aliases import client_of
from loadtests.scenario.all import chosen, groups, seconds_of
from loadtests.scenario.options import AllOptions, RunOptions
from loadtests.scenario.outcome import Outcome
from loadtests.scenario.place import Place
from loadtests.scenario.play import judge, require_playable
from loadtests.scenario.spec import SCALES, Bar, Scenario, names, read_scenario
from loadtests.workload.make import make
from lorikeet.cli.main import main


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that `loadtest all` leaves."""
    folder = tmp_path_factory.mktemp("all")
    words = ["--serve", "--model", "tiny", "--device", "cpu", "--threads", "1"]
    main(["loadtest", "all", *words, "--scale", "small", "--out", str(folder)])
    return folder


@pytest.mark.parametrize("name", names())
def test_scenario(name: str, results: Path) -> None:
    told = json.loads((results / "all.json").read_text())[name]
    assert told["state"] == "pass" and told["bars"], told["why"]
    # What the server's own page said beside it.
    run = load(results / f"{name}.jsonl")
    assert told["figures"]["adapter_loads"] >= 0
    answered = {record.digest for record in run.records if record.digest}
    assert {digest for sample in run.metrics for digest in sample.resident} & answered


def test_all_are_on_one_page(results: Path) -> None:
    page = (results / "index.html").read_text()
    assert page.count('<td class="pass">') == len(names())
    for name in names():
        assert f'<a href="{name}.html">' in page and "<svg" in (results / f"{name}.html").read_text()


def test_tenants_were_told_apart_by_their_keys(results: Path) -> None:
    """Each asks for adapters that only it has: under another's key they would not be found."""
    run = load(results / "noisy-neighbour.jsonl")
    assert {record.tenant for record in run.records if record.is_ok} == {"quiet", "loud"}


def test_a_bar_that_is_not_met_is_a_fail(results: Path) -> None:
    bars = {"failed": Bar(most=0.0), "token_throughput": Bar(least=1e9)}
    scenario = replace(read_scenario("steady", "small"), bars=bars)
    played = judge(scenario, [load(results / "steady.jsonl")])
    assert [v.is_met for v in played.verdicts] == [True, False] and not played.is_passed
    outcome = Outcome.of(played, 1.0)
    assert outcome.state == "FAIL" and outcome.why.startswith("token_throughput is")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", names())
def test_a_server_that_refuses_everything_passes_nowhere(name: str, scale: str) -> None:
    scenario = read_scenario(name, scale)
    workload = make(scenario.workload, 0)
    records = [replace(Record.of(r), sent=r.at, end=r.at, outcome="unavailable") for r in workload.requests]
    refused = Run(name, "", 0, workload.duration, 0.0, records)
    assert not judge(scenario, [refused, refused]).is_passed


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", names())
def test_every_bar_is_within_reach(name: str, scale: str) -> None:
    """A ratio that no server could miss would be a bar for show."""
    bars = read_scenario(name, scale).bars
    bounds = {figure: bar.most for figure, bar in bars.items() if figure.endswith(("_ratio", "_step"))}
    assert all(most <= 2 or most == inf for most in bounds.values())


def test_what_no_time_is_left_for_is_not_begun(tmp_path: Path) -> None:
    words = ["--only", "steady,thrash", "--serve", "--within", "0.1", "--out", str(tmp_path)]
    assert main(["loadtest", "all", *words]) == 1
    told = json.loads((tmp_path / "all.json").read_text())
    assert {each["state"] for each in told.values()} == {"skipped"} and len(told) == 2


def test_a_server_that_is_there_is_spared_and_one_that_is_not_is_an_error(tmp_path: Path) -> None:
    words = ["--only", "engine-kill,steady", "--target", "localhost:1", "--adapter", "/no/such"]
    assert main(["loadtest", "all", *words, "--out", str(tmp_path)]) == 1
    told = json.loads((tmp_path / "all.json").read_text())
    assert {name: each["state"] for name, each in told.items()} == {
        "steady": "ERROR",
        "engine-kill": "skipped",
    }


def test_one_server_serves_all_that_want_the_same_of_it() -> None:
    scenarios = [read_scenario(name, "brief") for name in ("engine-kill", "steady", "thrash")]
    assert [[s.name for s in group] for group in groups(scenarios)] == [["engine-kill", "steady"], ["thrash"]]
    last = chosen(AllOptions(serve=True, only="engine-kill,steady"))[-1]
    assert last.kills


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("steady", {"bars": {"beauty": Bar(least=1.0)}}, "there are not: beauty"),
        ("engine-kill", {}, "only --serve allows"),
        ("rolling-canary", {}, "--adapter"),
    ],
)
def test_what_cannot_be_played(name: str, changes: dict[str, Any], told: str) -> None:
    place = Place(GrpcTarget("localhost:1"), None, "")
    with pytest.raises(LoadTestError, match=told):
        require_playable(replace(read_scenario(name, "small"), **changes), place)


def test_aliases_are_set_over_the_public_contract_alone() -> None:
    with pytest.raises(LoadTestError, match="set over gRPC"), client_of(HttpTarget("http://x"), "t"):
        pass


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
        ('[[actions]]\nat = 1.0\nkind = "burn"', "'burn' is none of kill-engine, shift"),
        ('[[actions]]\nat = 1.0\nkind = "shift"\nnew = 10', "new 10.0 must be from 0 to 1"),
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


def test_brief_loads_and_what_is_done_for_them_take_nine_minutes() -> None:
    """Of which some are for servers that start and adapters that come."""
    assert sum(seconds_of(read_scenario(name, "brief")) for name in names()) <= 400


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
        ({"serve": True, "keys": __file__}, "--serve makes its own"),
        ({"serve": True, "scale": "huge"}, "none of full, brief, small"),
    ],
)
def test_options_are_checked_before_anything_is_driven(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RunOptions(**options)
