"""The driver against the fake: only what holds on any machine, however busy."""

import json
from pathlib import Path

import pytest

from loadtests.overhead import Agreement
from lorikeet.cli.main import main


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_driver_is_measured_and_an_open_loop_sees_the_queue(
    protocol: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "self.json"
    words = ["--protocol", protocol, "--rate", "20", "--duration", "4", "--tokens", "16"]
    assert main(["loadtest", "selftest", *words, "--json", str(file)]) in (0, 1)
    told = json.loads(file.read_text())
    assert "first token p50" in capsys.readouterr().out
    for each in told["percentiles"].values():
        assert each["server"] > 0 and each["driver"] > 0
    for name in ("first token p50", "whole answer p50"):
        # A record is made after the server's word, never before.
        assert told["percentiles"][name]["driver"] >= told["percentiles"][name]["server"]
    assert told["waited_part"] >= 0
    # Nothing leaves before its time: the script's, or the server's word.
    assert told["server_late_p99_ms"] > 0 and told["received_p99_ms"] >= told["received_p50_ms"] > 0
    # A third of what is asked cannot be answered in time; who waits for answers never notices.
    assert told["open_loop_ms"][1] > 1000 > 0 < told["closed_loop_ms"][0]
    assert told["open_loop_ms"][0] > told["closed_loop_ms"][0]


@pytest.mark.parametrize(
    ("truth", "measured", "is_close"),
    [
        (0.01, 0.0109, True),
        (0.01, 0.0111, False),
        (1.0, 1.019, True),
        (1.0, 1.021, False),
        (1.0, 0.97, False),
    ],
)
def test_close_is_two_percent_or_a_millisecond(truth: float, measured: float, is_close: bool) -> None:
    assert Agreement("p50", truth, measured).is_close is is_close
