"""A sweep keeps the best of its grid, and each point is what it would be alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file

from lorikeet.cli.main import main
from training.concurrent.session import Sharing, train_together
from training.config import TrainConfig
from training.configfile import dump_config
from training.errors import Diverged, InvalidConfig
from training.sweep.sweep import Grid, sweep

GRID = Grid(learning_rates=(1e-3, 3e-2, 1e30), ranks=(2, 4))


@pytest.fixture
def short(held_out: TrainConfig) -> TrainConfig:
    optim = replace(held_out.optim, max_steps=2, batch_size=16, eval_every=1)
    return replace(held_out, optim=optim)


def test_the_lowest_held_out_loss_wins(short: TrainConfig, tmp_path: Path) -> None:
    found = sweep(short, GRID, Sharing())
    assert [trial.learning_rate for trial in found.trials] == [3e-2, 3e-2, 1e-3, 1e-3, 1e30, 1e30]
    losses = [trial.eval_loss for trial in found.trials]
    assert losses[:4] == sorted(loss for loss in losses if loss is not None) and losses[4:] == [None, None]
    assert "learning_rate" in found.trials[-1].problem
    best = found.trials[0]
    story = json.loads((short.output / "training.json").read_text())
    assert story["config"]["lora"]["rank"] == best.rank and story["config"]["output"] == str(short.output)
    assert story["metrics"]["eval_loss"] == best.eval_loss
    assert not list(short.output.parent.glob(".*"))

    (alone,) = [
        point
        for point in GRID.configs(replace(short, output=tmp_path / "alone"))
        if (point.optim.learning_rate, point.lora.rank) == (best.learning_rate, best.rank)
    ]
    train_together([alone], Sharing())
    name = "adapter_model.safetensors"
    mine, theirs = load_file(short.output / name), load_file(alone.output / name)
    assert all(bool((mine[key] == theirs[key]).all()) for key in theirs)


def test_what_cannot_be_swept_is_said_before_anything_runs(config: TrainConfig, short: TrainConfig) -> None:
    with pytest.raises(InvalidConfig, match="compares held-out losses"):
        sweep(config, GRID, Sharing())
    with pytest.raises(InvalidConfig, match="lora.rank must be at least 1"):
        sweep(short, Grid(ranks=(0,)), Sharing())
    with pytest.raises(Diverged, match="every point of the sweep failed"):
        sweep(short, Grid(learning_rates=(1e30,)), Sharing())
    assert not short.output.exists() and not list(short.output.parent.glob(".*"))


def test_the_commands(short: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, other, figures = tmp_path / "run.toml", tmp_path / "other.toml", tmp_path / "sweep.json"
    run.write_text(dump_config(short))
    other.write_text(dump_config(replace(short, output=tmp_path / "other", seed=4)))
    arguments = ["--learning-rates", "1e-3,1e-2", "--ranks", "2", "--at-once", "1", "--json", str(figures)]
    assert main(["train", "sweep", str(run), *arguments]) == 0
    shown = capsys.readouterr().out
    assert "held-out loss" in shown and str(short.output) in shown
    assert [trial["learning_rate"] for trial in json.loads(figures.read_text())["trials"]] == [0.01, 0.001]

    assert main(["train", "together", str(run), str(other)]) == 1
    assert "not empty" in capsys.readouterr().err
    run.write_text(dump_config(replace(short, overwrite=True)))
    assert main(["train", "together", str(run), str(other), "--no-exact"]) == 0
    assert (tmp_path / "other" / "adapter_config.json").exists()
    assert main(["train", "sweep", str(run), "--ranks", "0"]) == 2
