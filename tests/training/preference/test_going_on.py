"""A run of a task that is stopped and goes on makes the very bytes of a run that nobody stopped."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.halting import WEIGHTS, halted, place_of, stop_at
from training.checkpoints import latest
from training.config import TrainConfig
from training.errors import Interrupted, InvalidConfig
from training.tasks import run

Make = Callable[..., TrainConfig]
SCORED = {
    "scorer": "tests.training.preference.toys:share_of_e",
    "num_generations": 4,
    "max_completion_length": 4,
    "beta": 0.1,
}


@pytest.fixture
def short(make: Make, pairs: list[Any]) -> Callable[[str], TrainConfig]:
    """Two epochs and more of a task, with dropout and rows held out: all that a run has to take up again."""

    def short(task: str) -> TrainConfig:
        rows = {
            "kto": [
                {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen"}
                for row in pairs[:6]
                for side in ("chosen", "rejected")
            ],
            "grpo": [{"prompt": row["prompt"]} for row in pairs[:8]],
        }
        rows["rloo"] = rows["grpo"]
        optim = {"batch_size": 4, "accumulation": 2, "max_steps": 6}
        config = make(task, rows.get(task, pairs), optim, **(SCORED if task in ("grpo", "rloo") else {}))
        data = replace(config.data, eval_fraction=0.25)
        return replace(config, data=data, lora=replace(config.lora, dropout=0.1))

    return short


def course(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k in ("step", "loss", "reward", "eval_loss")} for line in lines]


def check_same(one: Path, other: Path) -> None:
    assert (one / WEIGHTS).read_bytes() == (other / WEIGHTS).read_bytes()
    assert course(one) == course(other)


TASKS = ("dpo", "kto", "reward", "grpo", "rloo")


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("step", [4, *(pytest.param(step, marks=pytest.mark.long) for step in (1, 3, 5))])
def test_going_on_is_exact(
    task: str, step: int, short: Callable[[str], TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = short(task)
    whole = run(replace(config, output=tmp_path / "whole"))
    with pytest.raises(Interrupted, match=f"after step {step} of 6"):
        run(config, stop_at(step, monkeypatch))
    again = run(config)
    check_same(whole.output, again.output)
    assert again.train_loss == pytest.approx(whole.train_loss, rel=1e-6)
    assert not place_of(config).exists()


def test_sigterm_leaves_a_checkpoint_and_the_same_command_goes_on(
    short: Callable[[str], TrainConfig], tmp_path: Path
) -> None:
    config = short("grpo")
    whole = run(replace(config, output=tmp_path / "whole"))
    process = halted(config, tmp_path)
    process.send_signal(signal.SIGTERM)
    said = process.communicate("go on\n", timeout=240)[1]
    assert process.returncode == 1 and "the same command goes on from there" in said
    assert not config.output.exists()
    checkpoint = latest(place_of(config))
    assert checkpoint is not None and checkpoint.name == "checkpoint-3"
    assert not (checkpoint.parent / "README.md").exists()
    check_same(whole.output, run(config).output)


def test_a_run_killed_hard_goes_on_from_the_checkpoint_that_it_had_written(
    short: Callable[[str], TrainConfig], tmp_path: Path
) -> None:
    config = replace(short("dpo"), checkpoint_every=2)
    whole = run(replace(config, output=tmp_path / "whole"))
    process = halted(config, tmp_path)
    process.kill()
    process.communicate()
    checkpoint = latest(place_of(config))
    assert checkpoint is not None and checkpoint.name == "checkpoint-2"
    check_same(whole.output, run(config).output)


def test_another_adapter_to_start_from_is_another_run(
    make: Make, pairs: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make("dpo", pairs, {"max_steps": 3})
    first = run(config).output
    config = replace(config, init_from=first, output=first.with_name("again"))
    with pytest.raises(Interrupted):
        run(config, stop_at(1, monkeypatch))
    (first / WEIGHTS).write_bytes((first / WEIGHTS).read_bytes() + b" ")
    with pytest.raises(InvalidConfig, match="differs in its data"):
        run(config)
