import json
from pathlib import Path

import pytest

from loadtests.bench import check_same, figures_of
from loadtests.figures import Bar, write_figures

SPEED = {
    "engine, in process": 100.0,
    "server, gRPC": 90.0,
    "PEFT, mixed batch": 30.0,
    "PEFT, one at a time": 10.0,
}


@pytest.mark.parametrize(("goal", "met"), [(2.9, True), (3.1, False)])
def test_figures_and_bars_are_written_as_asked(
    goal: float,
    met: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "bench.json"
    monkeypatch.setenv("BENCH_JSON", str(file))
    figures = figures_of(SPEED)
    assert write_figures(figures, [Bar("speedup_over_peft_mixed", goal)]) is met
    written = json.loads(file.read_text())
    assert written["figures"] == {
        "speedup_over_peft_mixed": 3.0,
        "speedup_over_peft_sequential": 9.0,
        "grpc_over_engine": 0.9,
        "server_tokens_per_second": 90.0,
    }
    assert written["bars"] == {"speedup_over_peft_mixed": {"goal": goal, "value": 3.0, "pass": met}}
    assert ("pass" in capsys.readouterr().out) is met


def test_a_fast_wrong_answer_is_no_result() -> None:
    check_same({"a": [[1, 2]], "b": [[1, 2]]})
    with pytest.raises(SystemExit, match="b answers differently from a"):
        check_same({"a": [[1, 2]], "b": [[1, 3]]})
