from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.learning import lesson
from training.config import LoraSection, TrainConfig
from training.errors import InvalidConfig
from training.files import sha256
from training.methods.lineage import inherited
from training.train import run

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def parent(config: TrainConfig, tmp_path: Path) -> Path:
    optim = replace(config.optim, max_steps=2)
    return run(replace(config, output=tmp_path / "parent", optim=optim)).output


def test_going_on_starts_with_the_adapters_weights_and_shape(
    config: TrainConfig, parent: Path, tmp_path: Path
) -> None:
    config = replace(config, init_from=parent, lora=LoraSection(dropout=0.1))
    grown = inherited(config)
    assert (grown.lora.rank, grown.lora.alpha, grown.lora.dropout) == (4, 8.0, 0.1)
    taught = lesson(grown, tmp_path / "run")
    stored = load_file(parent / WEIGHTS)
    for name, weight in taught.learner.weights.items():
        assert torch.equal(weight, stored[name.replace(".default", "")])

    child = run(config).output
    story = json.loads((child / "training.json").read_text())
    assert story["lineage"] == [sha256(parent / WEIGHTS)]
    assert story["config"]["lora"]["rank"] == 4 and story["config"]["init_from"] == str(parent)
    grandchild = run(replace(config, init_from=child, output=tmp_path / "grandchild")).output
    story = json.loads((grandchild / "training.json").read_text())
    assert story["lineage"] == [sha256(parent / WEIGHTS), sha256(child / WEIGHTS)]


def test_what_the_adapter_is_not_is_said(config: TrainConfig, parent: Path, tmp_path: Path) -> None:
    config = replace(config, init_from=parent)
    for changed, message in (
        ({"lora": LoraSection(rank=8)}, "lora.rank is 8 and 4 in init_from: leave it out"),
        (
            {"method": "vera", "lora": LoraSection()},
            "init_from has an adapter of kind LORA, method vera trains VERA",
        ),
        ({"quantization": "nf4"}, "trained over the base in none: set quantization = none"),
        ({"init_from": tmp_path / "nothing"}, "is no adapter, it lacks adapter_config.json"),
    ):
        with pytest.raises(InvalidConfig, match=message):
            run(replace(config, **changed))
