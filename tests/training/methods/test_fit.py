"""Settings that one base cannot take are refused before the first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.training.learning import lesson
from training.config import LoraSection, PromptSection, TrainConfig
from training.errors import InvalidConfig
from training.train import run


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"lora": LoraSection(rank_pattern={"(": 4})}, r"lora.rank_pattern: '\(' is no regular expression"),
        ({"lora": LoraSection(rank_pattern={"proj": 4})}, "no adapted linear has a name that ends in 'proj'"),
        (
            {"lora": LoraSection(targets=("q_proj",), alpha_pattern={"k_proj": 4.0})},
            "lora.alpha_pattern: no adapted linear has a name that ends in 'k_proj'",
        ),
        ({"method": "pissa", "lora": LoraSection(rank=48)}, "of which .*k_proj has 32: lower lora.rank"),
        ({"method": "loftq", "lora": LoraSection(rank=48)}, "of which .*k_proj has 32: lower lora.rank"),
        (
            {"method": "prompt_tuning", "prompt": PromptSection(tokens=256)},
            "prompt.tokens: the base has 256 positions in all",
        ),
    ],
)
def test_what_the_base_cannot_take(
    changed: dict[str, Any], problem: str, config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(InvalidConfig, match=problem):
        lesson(replace(config, **changed), tmp_path / "run")


def test_patterns_of_names_and_of_places_are_taken(config: TrainConfig, tmp_path: Path) -> None:
    pattern = {"q_proj": 2, r"layers\.1\.mlp\.\w+": 3}
    taught = lesson(replace(config, lora=LoraSection(rank=4, rank_pattern=pattern)), tmp_path / "run")
    ranks = {name: weight.shape[0] for name, weight in taught.learner.weights.items() if "lora_A" in name}
    assert {rank for name, rank in ranks.items() if "q_proj" in name} == {2}
    assert {rank for name, rank in ranks.items() if "layers.1.mlp" in name} == {3}


def test_directions_are_counted_where_a_pattern_asks_for_fewer(config: TrainConfig, tmp_path: Path) -> None:
    few = {"k_proj": 8, "v_proj": 8}
    lora = LoraSection(rank=48, rank_pattern=few)
    lesson(replace(config, method="pissa", lora=lora), tmp_path / "run")


def test_adalora_needs_steps_to_prune_between(config: TrainConfig) -> None:
    with pytest.raises(InvalidConfig, match="prunes between steps, and 1 are too few"):
        run(replace(config, method="adalora", optim=replace(config.optim, max_steps=1)))
