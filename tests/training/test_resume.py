"""A run that is stopped and goes on makes the very bytes of a run that nobody stopped."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.halting import WEIGHTS, halted, place_of, stop_at
from training import callbacks
from training.checkpoints import checkpoint_root, latest
from training.config import AdaLoraSection, TrainConfig
from training.errors import Interrupted, InvalidConfig
from training.train import run


def steps(config: TrainConfig) -> list[int]:
    lines = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    return [line["step"] for line in lines if "loss" in line]


@pytest.fixture
def dropping(held_out: TrainConfig) -> TrainConfig:
    """Three epochs with dropout, evaluation and a best checkpoint: all that a run has to take up again."""
    optim = replace(
        held_out.optim,
        max_steps=None,
        epochs=3.0,
        batch_size=4,
        accumulation=2,
        patience=3,
        learning_rate=0.05,
    )
    return replace(held_out, lora=replace(held_out.lora, dropout=0.1), optim=optim)


def test_sigterm_in_the_middle_leaves_a_checkpoint_and_the_same_command_goes_on(
    dropping: TrainConfig, tmp_path: Path
) -> None:
    whole = run(replace(dropping, output=tmp_path / "whole"))
    config = replace(dropping, output=tmp_path / "stopped")
    process = halted(config, tmp_path)
    process.send_signal(signal.SIGTERM)
    said = process.communicate("go on\n", timeout=240)[1]
    assert process.returncode == 1
    assert "stopped by SIGTERM after step" in said and "the same command goes on from there" in said
    assert not config.output.exists()
    checkpoint = latest(place_of(config))
    assert checkpoint is not None and checkpoint.name == "checkpoint-3"

    again = run(config)
    assert (again.output / WEIGHTS).read_bytes() == (whole.output / WEIGHTS).read_bytes()
    assert again.train_loss == pytest.approx(whole.train_loss, rel=1e-6)
    assert again.eval_loss == whole.eval_loss
    assert steps(config) == list(range(1, whole.num_steps + 1))
    assert not place_of(config).exists()


@pytest.mark.parametrize("method", ["adalora", "pissa", pytest.param("p_tuning", marks=pytest.mark.long)])
def test_going_on_is_exact_whatever_is_trained(
    method: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    course = AdaLoraSection(warmup=0.0, prune_every=1) if method == "adalora" else AdaLoraSection()
    config = replace(config, method=method, adalora=course, optim=replace(config.optim, max_steps=4))
    whole = run(replace(config, output=tmp_path / "whole"))
    with pytest.raises(Interrupted, match="after step 2 of 4"):
        run(config, stop_at(2, monkeypatch))
    again = run(config)
    assert (again.output / WEIGHTS).read_bytes() == (whole.output / WEIGHTS).read_bytes()


def test_a_stop_at_the_end_of_an_epoch_still_evaluates_it(
    dropping: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(replace(dropping, output=tmp_path / "whole"))
    with pytest.raises(Interrupted):
        run(dropping, stop_at(2, monkeypatch))
    checkpoint = latest(place_of(dropping))
    assert checkpoint is not None
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    assert state["epoch"] == 1.0 and state["best_metric"] is not None
    again = run(dropping)
    assert (again.output / WEIGHTS).read_bytes() == (whole.output / WEIGHTS).read_bytes()


def test_a_run_killed_hard_goes_on_from_its_last_complete_checkpoint(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, checkpoint_every=2)
    whole = run(replace(config, output=tmp_path / "whole"))

    def pull_the_plug(self: Any, args: Any, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == 5:
            raise MemoryError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.MovedGuard, "on_step_end", pull_the_plug)
        with pytest.raises(MemoryError):
            run(config)
    # One that was being written when the plug was pulled has no seal, and does not count.
    broken = checkpoint_root(place_of(config)) / "checkpoint-5"
    broken.mkdir()
    (broken / "weights.safetensors").write_bytes(b"torn")
    found = latest(place_of(config))
    assert found is not None and found.name == "checkpoint-4"
    again = run(config)
    assert (again.output / WEIGHTS).read_bytes() == (whole.output / WEIGHTS).read_bytes()
    assert steps(config) == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_of_another_run_is_neither_used_nor_lost(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Interrupted):
        run(config, stop_at(2, monkeypatch))
    other = replace(config, optim=replace(config.optim, learning_rate=5e-3))
    with pytest.raises(InvalidConfig, match="differs in learning_rate: restore that to go on"):
        run(other)
    config.data.train.write_text(config.data.train.read_text() * 2)
    with pytest.raises(InvalidConfig, match="differs in its data"):
        run(config)
    assert latest(place_of(config)) is not None
    assert run(replace(other, overwrite=True)).num_steps == 6


def test_a_stop_with_the_last_step_finishes_instead(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(config, stop_at(6, monkeypatch)).num_steps == 6
