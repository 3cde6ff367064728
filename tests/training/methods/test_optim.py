from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.training.learning import lesson
from training.config import OptimConfig, TrainConfig
from training.errors import InvalidConfig
from training.methods.optimizers import optimizer_name
from training.methods.unfreeze import Unfreezing, groups_of


class Watch(TrainerCallback):  # type: ignore[misc]
    """Which layers have gradients at each step."""

    def __init__(self, weights: dict[str, Any]) -> None:
        self.weights = weights
        self.seen: list[set[str]] = []

    def on_pre_optimizer_step(self, *_: Any, **__: Any) -> None:
        self.seen.append({n.split(".layers.")[1][0] for n, w in self.weights.items() if w.grad is not None})


def test_layers_wake_group_by_group_from_the_last(config: TrainConfig, tmp_path: Path) -> None:
    optim = replace(config.optim, max_steps=4, unfreeze_groups=2, unfreeze_every=2)
    taught = lesson(replace(config, optim=optim), tmp_path / "run")
    before = {name: weight.detach().clone() for name, weight in taught.learner.weights.items()}
    trainer, watch = taught.trainer(), Watch(taught.learner.weights)
    trainer.add_callback(watch)
    trainer.train()
    assert watch.seen == [{"1"}, {"1"}, {"0", "1"}, {"0", "1"}]
    assert all(not torch.equal(before[name], weight) for name, weight in taught.learner.weights.items())
    assert all(weight.requires_grad for weight in taught.learner.weights.values())


def test_a_step_weighs_all_its_loss_tokens_alike_however_it_is_cut(
    config: TrainConfig, write_jsonl: Callable[..., Path], tmp_path: Path
) -> None:
    rows = [{"prompt": "Count.", "completion": "red " * number} for number in (1, 1, 1, 2, 3, 5, 9, 14)]
    config = replace(config, data=replace(config.data, train=write_jsonl(rows, "uneven.jsonl")))
    norms, losses = [], []
    for batch_size, accumulation in ((8, 1), (2, 4)):
        optim = replace(config.optim, batch_size=batch_size, accumulation=accumulation, max_steps=1)
        trainer = lesson(replace(config, optim=optim), tmp_path / f"{batch_size}").trainer()
        trainer.train()
        norms.append(trainer.state.log_history[0]["grad_norm"])
        losses.append(trainer.state.log_history[0]["loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)


def test_groups_are_of_like_size_and_what_is_outside_joins_its_neighbours() -> None:
    names = {f"model.layers.{layer}.q.lora_A": None for layer in range(5)}
    names |= {"model.embed_tokens.weight": None, "model.norm.weight": None, "lm_head.weight": None}
    groups = groups_of(names, 2)
    assert [groups[f"model.layers.{layer}.q.lora_A"] for layer in range(5)] == [1, 1, 0, 0, 0]
    assert groups["model.embed_tokens.weight"] == 1
    assert groups["model.norm.weight"] == groups["lm_head.weight"] == 0
    with pytest.raises(InvalidConfig, match="5 layers cannot be cut into 6 groups"):
        groups_of(names, 6)


def test_several_processes_cannot_unfreeze(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InvalidConfig, match="works in one process"):
        Unfreezing({}, 2, 1)


def test_lora_plus_steps_b_faster_than_a(config: TrainConfig, tmp_path: Path) -> None:
    taught = lesson(replace(config, method="lora_plus"), tmp_path / "run")
    names = {id(weight): name for name, weight in taught.learner.weights.items()}
    rates: dict[str, list[float]] = {"lora_A": [], "lora_B": []}
    for group in taught.trainer().create_optimizer().param_groups:
        for weight in group["params"]:
            rates["lora_B" if "lora_B" in names[id(weight)] else "lora_A"].append(group["lr"])
    assert set(rates["lora_A"]) == {1e-2}
    assert rates["lora_B"] == pytest.approx([0.16] * 14)


@pytest.mark.parametrize(
    ("wanted", "quantization", "has_gpu", "name"),
    [
        ("auto", "none", True, "adamw_torch_fused"),
        ("auto", "nf4", True, "paged_adamw_32bit"),
        ("auto", "nf4", False, "adamw_torch_fused"),
        ("paged_adamw_8bit", "none", True, "paged_adamw_8bit"),
        ("paged_adamw_8bit", "none", False, "adamw_torch_fused"),
        ("adamw", "nf4", True, "adamw_torch_fused"),
    ],
)
def test_optimizers_page_on_a_gpu_and_say_when_they_do_not(
    wanted: str,
    quantization: str,
    has_gpu: bool,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    config = TrainConfig(quantization=quantization, optim=OptimConfig(optimizer=wanted), fast="off")
    with caplog.at_level(logging.WARNING):
        assert optimizer_name(config) == name
    if wanted == "auto":
        assert optimizer_name(replace(config, fast="on")) == "adamw_torch_fused"
    fell_back = wanted.startswith("paged") and not has_gpu
    assert ("there is none: using adamw" in caplog.text) == fell_back
