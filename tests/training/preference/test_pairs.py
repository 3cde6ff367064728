from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.artifact import base_shapes, check_servable
from training.config import TrainConfig
from training.model import load_base
from training.tasks import run

Make = Callable[..., TrainConfig]


def metrics(folder: Path, key: str) -> list[float]:
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines if key in line]


def test_dpo_widens_the_margin_and_leaves_a_servable_adapter(
    make: Make, pairs: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    config = make("dpo", pairs, {"batch_size": 8, "max_steps": 6})
    config = replace(config, data=replace(config.data, eval_fraction=0.25))
    result = run(config)
    assert capfd.readouterr() == ("", "")
    margins = metrics(result.output, "rewards/margins")
    assert margins[0] == pytest.approx(0, abs=1e-3) and margins[-1] > 0.5
    assert metrics(result.output, "loss")[0] == pytest.approx(0.6931, abs=1e-3)
    assert result.eval_loss is not None and result.eval_loss < 0.69
    assert not (result.output / "ref").exists()
    checked = check_servable(result.output, base_shapes(load_base(config.base)))
    assert len(checked.targets) == 14
    story = json.loads((result.output / "training.json").read_text())
    assert story["config"]["task"] == "dpo" and story["config"]["preference"]["num_generations"] == 8


def test_kto_likes_what_is_labelled_so(make: Make, pairs: list[Any]) -> None:
    rows = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
        for row in pairs
        for side in ("chosen", "rejected")
    ]
    result = run(make("kto", rows, {"batch_size": 8, "max_steps": 8}))
    liked, disliked = (metrics(result.output, f"rewards/{side}") for side in ("chosen", "rejected"))
    assert liked[-1] > disliked[-1] + 0.1


def test_trap_4_over_a_quantized_base_the_adapter_keeps_its_32_bits(make: Make, pairs: list[Any]) -> None:
    config = make("dpo", pairs, {"max_steps": 2})
    result = run(replace(config, method="qlora"))
    assert metrics(result.output, "loss")[0] == pytest.approx(0.6931, abs=1e-3)
    assert json.loads((result.output / "training.json").read_text())["weights_dtype"] == ["F32"]


def test_going_on_holds_to_the_adapter_as_it_was(make: Make, pairs: list[Any]) -> None:
    config = make("dpo", pairs, {"max_steps": 3})
    first = run(config).output
    again = run(replace(config, init_from=first, output=first.with_name("again"))).output
    assert metrics(first, "rewards/margins")[-1] > 0.01
    assert metrics(again, "rewards/margins")[0] == pytest.approx(0, abs=1e-3)
    assert json.loads((again / "training.json").read_text())["lineage"]
