"""The benchmark of training, at a size that says nothing about speed."""

import json
from pathlib import Path

import pytest

from loadtests.concurrent import run
from loadtests.concurrent_config import TrainingConfig


def test_every_line_has_its_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "figures.json"
    sizes = {"model": "tiny", "adapters": "1,3", "ranks": "4,2", "length": 8, "rounds": 2}
    assert run(TrainingConfig(**sizes, modes="exact,shared", device="cpu", json=str(path))) == 0  # type: ignore[arg-type]
    speeds = json.loads(path.read_text())["speeds"]
    assert [(each["how"], each["adapters"]) for each in speeds] == [
        ("PEFT loop", 1),
        ("exact", 1),
        ("exact", 3),
        ("PEFT loop", 1),
        ("shared", 1),
        ("shared", 3),
    ]
    assert all(each["tokens_per_second"] > 0 for each in speeds)
    assert all(len(each["times"][by]) == 2 for each in speeds for by in ("clock", "processor"))
    assert "x one by one" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [{"adapters": "4,1"}, {"ranks": "0"}, {"modes": "both"}, {"rounds": 0}])
def test_options_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingConfig(**wrong)  # type: ignore[arg-type]
