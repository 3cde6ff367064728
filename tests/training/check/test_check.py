"""Whole checks by the command itself, held against the text that they are known to print."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lorikeet.cli.main import main
from training.check.run import Wishes, check
from training.config import LoraSection, TrainConfig
from training.configfile import dump_config

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def run_file(tmp_path: Path) -> Callable[[TrainConfig], Path]:
    def write(config: TrainConfig) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(dump_config(config))
        return path

    return write


def test_a_good_run_is_told_in_full(
    held_out: TrainConfig, run_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["train", "check", str(run_file(held_out)), "--device", "cpu", "--show", "2"])
    assert (capsys.readouterr().out, code) == ((GOLDEN / "good.txt").read_text(), 0)


def test_a_bad_run_is_told_in_full(
    config: TrainConfig,
    run_file: Callable[..., Path],
    write_jsonl: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [{"prompt": "Red?", "completion": "Yes."}] * 2 + [{"prompt": "long " * 40, "completion": "No."}]
    held = [{"prompt": "red", "completion": "yes"}]
    data = replace(config.data, train=write_jsonl(rows, "train.jsonl"), eval=write_jsonl(held, "eval.jsonl"))
    weak = replace(config, data=data, lora=LoraSection(rank=1, targets=("q_proj",)))
    weak = replace(weak, optim=replace(config.optim, learning_rate=1.0, batch_size=64))
    code = main(["train", "check", str(run_file(weak)), "--device", "cpu", "--memory", "0.001"])
    assert (capsys.readouterr().out, code) == ((GOLDEN / "bad.txt").read_text(), 1)


def test_json_has_every_figure(
    config: TrainConfig, run_file: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "check", str(run_file(config)), "--json", "--show", "1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is True
    assert set(told) == {"passed", "findings", "data", "model", "capacity", "memory"}
    assert told["data"]["preview"][0][-1]["learned"] is True
    assert told["memory"]["peak"] > told["memory"]["base"] > 0


def test_errors_that_are_allowed_are_warnings(
    config: TrainConfig, run_file: Callable[..., Path], write_jsonl: Callable[..., Path]
) -> None:
    rows = write_jsonl([{"prompt": "Red?", "completion": "Yes."}], "both.jsonl")
    path = run_file(replace(config, data=replace(config.data, train=rows, eval=rows)))
    report = check(path, Wishes(allowed=("leakage",)))
    assert report.passed
    assert "leakage" in [found.rule for found in report.of("warning")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": "/no/such/base"}, "/no/such/base is no folder"),
        ({"lora": LoraSection(targets=("nothing_proj",))}, "no linear nothing_proj"),
    ],
)
def test_a_base_or_targets_that_are_not_there(
    config: TrainConfig, run_file: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    errors = list(check(run_file(replace(config, **changes))).of("error"))
    assert len(errors) == 1 and message in errors[0].text
