import json
from pathlib import Path

import pytest

from loadtests.fake import Script, faking
from loadtests.scenario.capacity import search
from lorikeet.cli.main import main


@pytest.mark.parametrize("limit", [0.3, 1.0, 7.7, 10.0, 500.0])
def test_the_highest_rate_that_keeps_is_found(limit: float) -> None:
    asked: list[float] = []

    def keeps(rate: float) -> bool:
        asked.append(rate)
        return rate <= limit

    found = search(keeps, start=10.0, tolerance=0.05, probes=30)
    assert found.best <= limit < found.failed <= found.best * 1.05
    assert len(set(asked)) == len(asked)


def test_a_search_ends_where_nothing_or_everything_keeps() -> None:
    assert search(lambda rate: False, 8.0, 0.1, 4).best == 0
    found = search(lambda rate: True, 8.0, 0.1, 4)
    assert (found.best, found.failed) == (64.0, float("inf"))


SCENARIO = """
summary = "one at a time, a second each"
[workload.arrivals]
rate = 4.0
duration = 4.0
[workload.popularity]
adapters = 2
[workload.answers]
tokens = 2
[objective]
first_token_ms = 2500.0
per_token_ms = 60000.0
share = 0.9
"""


def test_capacity_of_a_server_that_answers_one_a_second(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four a second are too many however quick this machine is: the last of them waits ten seconds."""
    scenario, figures = tmp_path / "one.toml", tmp_path / "capacity.json"
    scenario.write_text(SCENARIO)
    with faking(Script(first_ms=1000.0, token_ms=0.0, capacity=1)) as fake:
        words = ["--target", fake.address, "--probes", "2", "--json", str(figures)]
        code = main(["loadtest", "capacity", str(scenario), *words])
    told = json.loads(figures.read_text())
    assert [run["rate"] for run in told["runs"]] == [4.0, 2.0]
    assert told["runs"][0]["kept"] is False and told["runs"][0]["backlog"] > 5
    assert told["failed"] <= 4.0 and code == (0 if told["best"] else 1)
    assert "missed" in capsys.readouterr().out
