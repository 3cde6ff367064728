from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from training.artifact import base_shapes, check_servable
from training.config import TrainConfig
from training.errors import UnservableAdapter
from training.files import sha256
from training.model import load_base
from training.preference.reward import load_reward
from training.preference.rows import read_records
from training.tasks import run

Make = Callable[..., TrainConfig]
SAMPLING = {
    "scorer": "tests.training.preference.toys:share_of_e",
    "num_generations": 8,
    "max_completion_length": 8,
}


def metrics(folder: Path, key: str) -> list[float]:
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines if key in line]


def prompts(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{"prompt": row["prompt"]} for row in rows]


def test_a_reward_model_learns_what_is_preferred_and_scores_for_others(
    make: Make, pairs: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    config = make("reward", pairs, {"batch_size": 8, "max_steps": 8})
    result = run(config)
    assert capfd.readouterr() == ("", "")
    assert metrics(result.output, "accuracy")[-1] == 1
    scorer = load_reward(result.output)
    records = read_records(config.data.train, ("prompt",))
    good, bad = (scorer(records, [pair[side] for pair in pairs]) for side in ("chosen", "rejected"))
    assert fmean(good) > fmean(bad) + 0.5
    with pytest.raises(UnservableAdapter):
        check_servable(result.output, base_shapes(load_base(config.base)))
    rows = prompts(pairs)[:2]
    best = make("best_of_n", rows, {"max_steps": 3}, num_generations=2, max_completion_length=4)
    preference = replace(best.preference, reward_model=result.output)
    picked = run(replace(best, preference=preference, output=config.output.with_name("policy")))
    assert picked.num_train_rows == 2


@pytest.mark.parametrize("task", ["grpo", "rloo"])
def test_a_policy_earns_more_and_leaves_a_servable_adapter(
    task: str, make: Make, color_rows: list[dict[str, str]]
) -> None:
    optim = {"batch_size": 16, "max_steps": 10, "schedule": "constant"}
    # A base that has barely learned anything writes at random, unless it is made to keep to its best guesses.
    config = make(task, prompts(color_rows), optim, **SAMPLING, temperature=0.2, beta=0.0)
    result = run(config)
    earned = metrics(result.output, "reward")
    assert fmean(earned[-3:]) > 1.5 * fmean(earned[:3])
    check_servable(result.output, base_shapes(load_base(config.base)))
    assert not (result.output / "ref").exists()


def test_the_best_of_n_is_imitated(make: Make, color_rows: list[dict[str, str]]) -> None:
    config = make("best_of_n", prompts(color_rows)[:6], {"max_steps": 4}, **SAMPLING)
    result = run(config)
    [sampled], [picked] = (metrics(result.output, f"{name}_score") for name in ("sampled", "picked"))
    assert picked > sampled > 0
    kept = config.output.with_name("adapter.best.jsonl").read_text()
    rows = [json.loads(line) for line in kept.splitlines()]
    assert len(rows) == result.num_train_rows == 6
    assert fmean(row["score"] for row in rows) == pytest.approx(picked)
    assert metrics(result.output, "loss")[-1] < metrics(result.output, "loss")[0]
    story = json.loads((result.output / "training.json").read_text())
    assert story["config"]["task"] == "best_of_n"
    assert story["config"]["preference"]["scorer"] == SAMPLING["scorer"]
    assert story["data_sha256"]["prompts"] == sha256(config.data.train)
    manifest = json.loads((result.output / "lorikeet_manifest.json").read_text())
    assert (manifest["task"], manifest["scorer"]) == ("best_of_n", SAMPLING["scorer"])
    assert manifest["metrics"]["picked_score"] == picked
    assert f"| scorer | `{SAMPLING['scorer']}` |" in (result.output / "README.md").read_text()
    check_servable(result.output, base_shapes(load_base(config.base)))
