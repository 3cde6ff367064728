"""Trap 1: PEFT left alone adapts q_proj and v_proj. Trap 2: an adapter drawn before the seed is set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from tests.training.learning import lesson
from training.config import TrainConfig
from training.model import load_base

LINEARS = {"down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"}


def test_trap_1_peft_left_alone_adapts_two_linears_and_we_write_out_all(
    config: TrainConfig, tmp_path: Path
) -> None:
    alone = get_peft_model(load_base(config.base), LoraConfig(task_type="CAUSAL_LM"))
    assert set(alone.peft_config["default"].target_modules) == {"q_proj", "v_proj"}
    ours = lesson(config, tmp_path / "run").learner.model
    assert set(ours.peft_config["default"].target_modules) == LINEARS
    assert not hasattr(ours.get_base_model().lm_head, "lora_A")


def test_trap_2_the_seed_decides_the_start_whatever_was_drawn_before(
    config: TrainConfig, tmp_path: Path
) -> None:
    first = lesson(config, tmp_path / "first").learner.weights
    torch.rand(7)
    again = lesson(config, tmp_path / "again").learner.weights
    other = lesson(replace(config, seed=1), tmp_path / "other").learner.weights
    a = next(name for name in first if "lora_A" in name)
    assert all(torch.equal(weight, again[name]) for name, weight in first.items())
    assert not torch.equal(first[a], other[a])
