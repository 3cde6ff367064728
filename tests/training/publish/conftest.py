"""A live server over the micro base, and adapters that know the colors more or less well."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lorikeet import Client
from lorikeet.local import Serving
from tests.training.conftest import COLORS
from tests.whole import ready
from training.config import DataConfig, LoraSection, OptimConfig, TrainConfig
from training.train import run

ASKS = ("Color of the {}?", "Which color has the {}?", "Name the color of the {}.")


@pytest.fixture(scope="session")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with ready(base, tmp_path_factory.mktemp("live")) as (running, _):
        yield running


@pytest.fixture
def client(server: Serving) -> Iterator[Client]:
    with Client(server.target, timeout=60) as client:
        yield client


@pytest.fixture(scope="session")
def colors(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """The folder of an adapter that was trained for so many steps, trained once for each quantization."""
    root = tmp_path_factory.mktemp("colors")
    rows = [
        {"prompt": ask.format(what), "completion": color} for ask in ASKS for what, color in COLORS.items()
    ]
    (root / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")

    def make(steps: int, quantization: str = "none") -> Path:
        folder = root / f"{steps}-{quantization}"
        if not folder.exists():
            run(
                TrainConfig(
                    base=str(base),
                    output=folder,
                    data=DataConfig(train=root / "rows.jsonl", eval=root / "rows.jsonl", max_length=64),
                    lora=LoraSection(rank=4, alpha=8.0),
                    optim=OptimConfig(
                        learning_rate=2e-2, batch_size=12, max_steps=steps, schedule="constant"
                    ),
                    quantization=quantization,
                    threads=1,
                )
            )
        return folder

    return make


@pytest.fixture
def copied(colors: Callable[..., Path], tmp_path: Path) -> Callable[[int], Path]:
    """A copy of that folder, to be changed by one test."""
    return lambda steps: Path(shutil.copytree(colors(steps), tmp_path / f"copy-{steps}"))
