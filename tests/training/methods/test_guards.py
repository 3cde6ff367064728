"""Runs that only seem to go well are stopped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState

from tests.training.learning import lesson
from training.callbacks import Metrics
from training.config import TrainConfig
from training.encode import IGNORED, Example
from training.errors import Diverged
from training.methods.guards import check_moved, fingerprints
from training.train import run


def test_weight_decay_is_no_learning(config: TrainConfig, tmp_path: Path) -> None:
    taught = lesson(config, tmp_path / "run")
    for name, weight in taught.learner.weights.items():
        if "lora_A" in name:
            weight.data *= 0.99
    with pytest.raises(Diverged, match="no weight of the adapter moved"):
        taught.learner.check_moved()
    next(w for n, w in taught.learner.weights.items() if "lora_B" in n).data += 1e-6
    taught.learner.check_moved()


def test_weights_that_are_no_numbers() -> None:
    weights = {"w": torch.nn.Parameter(torch.ones(2))}
    before = fingerprints(weights)
    weights["w"].data[0] = torch.nan
    with pytest.raises(Diverged, match="w holds NaN or infinity"):
        check_moved(weights, before)


def test_nothing_that_moves_stops_after_three_steps(config: TrainConfig) -> None:
    optim = replace(config.optim, learning_rate=0.0, max_steps=500)
    with pytest.raises(Diverged, match="no weight of the adapter moved"):
        run(replace(config, optim=optim))


def test_rows_without_a_loss_end_the_run(config: TrainConfig, tmp_path: Path) -> None:
    taught = lesson(config, tmp_path / "run")
    taught.examples = [Example(row.input_ids, [IGNORED] * len(row.labels)) for row in taught.examples]
    with pytest.raises(Diverged, match="the loss was nan|exactly 0 from the start"):
        taught.train()


def test_a_loss_of_exactly_nothing_is_believed_only_once_there_was_another(
    config: TrainConfig, tmp_path: Path
) -> None:
    state, control = TrainerState(global_step=1), TrainerControl()
    arguments = lesson(config, tmp_path / "run").trainer().args
    with pytest.raises(Diverged, match="exactly 0 from the start"):
        Metrics(tmp_path / "a.jsonl", None).on_log(arguments, state, control, {"loss": 0.0})
    metrics = Metrics(tmp_path / "b.jsonl", None)
    metrics.on_log(arguments, state, control, {"loss": 1.0})
    metrics.on_log(arguments, state, control, {"loss": 0.0})
    with pytest.raises(Diverged, match="the loss was inf at step 1"):
        metrics.on_log(arguments, state, control, {"train_loss": float("inf")})
