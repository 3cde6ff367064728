from __future__ import annotations

import json
from dataclasses import replace

import pytest

from training.config import TrainConfig
from training.rates import FULL_RATE, LORA_FACTOR, REFERENCE_WIDTH, base_rate, formula_rate, with_rate
from training.train import run


def test_the_formula_falls_with_the_width_and_each_family_in_its_way() -> None:
    assert formula_rate("llama", REFERENCE_WIDTH) == FULL_RATE * LORA_FACTOR
    assert formula_rate("llama", 4096) == pytest.approx(2.9e-4)
    assert formula_rate("qwen3", 4096) == pytest.approx(4.7e-4)
    assert formula_rate("llama", 4096, full=True) == pytest.approx(2.9e-5)


def test_a_family_without_a_fit_takes_the_lower_rate() -> None:
    assert formula_rate("mistral", 4096) == formula_rate("llama", 4096)
    assert formula_rate("mistral", 512) == formula_rate("qwen3", 512)


def test_a_rate_of_ones_own_stays(config: TrainConfig) -> None:
    assert with_rate(config) is config


def test_a_run_without_a_rate_takes_the_formulas_and_says_so(config: TrainConfig) -> None:
    left_out = replace(config, optim=replace(config.optim, learning_rate=None, max_steps=1))
    result = run(left_out)
    story = json.loads((result.output / "training.json").read_text())
    assert story["config"]["optim"]["learning_rate"] == base_rate(config) == formula_rate("llama", 64)
