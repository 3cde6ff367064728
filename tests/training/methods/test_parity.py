"""What a server makes of a saved adapter is what the trainer's model was, whatever the method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.learning import IDS, Lesson, lesson, off_by, plain_base, served_logits
from training.config import AdaLoraSection, PromptSection, TrainConfig
from training.methods.table import METHODS

ADAPTERS = [name for name, method in METHODS.items() if not method.makes_model]
# bitsandbytes computes over NF4 in bfloat16 on some CPUs, and rounds activations over int8.
TOLERANCES = {"none": 1e-5, "nf4": 2e-2, "int8": 5e-2}


@pytest.fixture
def short(config: TrainConfig) -> TrainConfig:
    return replace(
        config,
        last_layers=1,
        adalora=AdaLoraSection(warmup=0.0, final=0.3, prune_every=1),
        prompt=PromptSection(tokens=5),
        optim=replace(config.optim, max_steps=4, learning_rate=3e-2),
    )


@pytest.mark.parametrize("method", ADAPTERS)
def test_what_is_served_is_what_was_trained(method: str, short: TrainConfig, tmp_path: Path) -> None:
    taught = check_parity(replace(short, method=method), tmp_path)
    if method == "adalora":
        masks = taught.learner.model.peft_config["default"].rank_pattern.values()
        kept, asked = sum(map(sum, masks)), 4 * len(masks)
        assert kept == asked < sum(map(len, masks)), "pruned from six ranks a linear to four on average"


def test_over_int8_and_with_patterns(short: TrainConfig, tmp_path: Path) -> None:
    lora = replace(short.lora, rank_pattern={"q_proj": 2}, alpha_pattern={"up_proj": 3.0}, rslora=True)
    check_parity(replace(short, quantization="int8", lora=lora), tmp_path)


def check_parity(config: TrainConfig, place: Path) -> Lesson:
    taught = lesson(config, place / "run")
    taught.train()
    trained, upload = taught.logits(), taught.save()
    tolerance = TOLERANCES[taught.config.quantization]
    with torch.inference_mode():
        alone = plain_base(taught.config)(input_ids=IDS).logits
    assert off_by(alone, trained) > 2 * tolerance, "the adapter must do something"
    assert off_by(served_logits(taught.config, upload), trained) <= tolerance
    return taught
