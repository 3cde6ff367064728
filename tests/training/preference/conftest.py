"""Runs of a few seconds over a base that has barely learned to write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from training.config import TrainConfig


@pytest.fixture
def make(config: TrainConfig, write_jsonl: Callable[..., Path]) -> Callable[..., TrainConfig]:
    """A run of a task over rows of its own, with settings of the sections changed."""

    def make(task: str, rows: list[Any], optim: dict[str, Any], **preference: Any) -> TrainConfig:
        return replace(
            config,
            task=task,
            data=replace(config.data, train=write_jsonl(rows, f"{task}.jsonl")),
            optim=replace(config.optim, **optim),
            preference=replace(config.preference, **preference),
        )

    return make


@pytest.fixture
def pairs(color_rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The color of each product is preferred to a color that none has."""
    return [
        {"prompt": row["prompt"], "chosen": row["completion"], "rejected": "purple"} for row in color_rows
    ]
