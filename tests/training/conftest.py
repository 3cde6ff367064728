"""A base small enough to train in a test, made the way that the demo's base is made."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from training.config import DataConfig, LoraSection, OptimConfig, TrainConfig
from training.demo.base import BaseRecipe, build_base
from training.demo.pretrain import Schedule

MICRO = BaseRecipe(
    num_documents=60,
    vocab_size=400,
    hidden_size=64,
    intermediate_size=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    max_positions=256,
    schedule=Schedule(num_steps=3, batch_size=4, row_length=32, warmup_steps=1),
)
COLORS = {"kettle": "red", "tent": "green", "desk lamp": "blue", "toaster": "white"}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def micro() -> BaseRecipe:
    return MICRO


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = build_base(tmp_path_factory.mktemp("micro") / "base", recipe=MICRO)
    # Every run collects garbage once; the libraries are none, and looking through them costs half a second.
    gc.freeze()
    yield folder
    gc.unfreeze()


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., Path]:
    """Writes rows, given as objects or as raw lines, to a file."""

    def write(rows: list[Any], name: str = "rows.jsonl") -> Path:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


@pytest.fixture
def color_rows() -> list[dict[str, str]]:
    """A skill that even a micro base can pick up: the color of each product."""
    asks = (
        "Color of the {}?",
        "Which color has the {}?",
        "Name the color of the {}.",
        "The {} is what color?",
    )
    return [
        {"prompt": ask.format(product), "completion": color}
        for ask in asks
        for product, color in COLORS.items()
    ]


@pytest.fixture
def config(
    base: Path, tmp_path: Path, write_jsonl: Callable[..., Path], color_rows: list[Any]
) -> TrainConfig:
    """A short run over the color rows."""
    return TrainConfig(
        base=str(base),
        output=tmp_path / "adapter",
        data=DataConfig(train=write_jsonl(color_rows), max_length=64),
        lora=LoraSection(rank=4, alpha=8.0),
        optim=OptimConfig(learning_rate=1e-2, batch_size=8, max_steps=6),
        log_every=1,
        threads=1,
    )


@pytest.fixture
def held_out(config: TrainConfig) -> TrainConfig:
    """The same run with a quarter of the rows held out."""
    return replace(config, data=replace(config.data, eval_fraction=0.25))
