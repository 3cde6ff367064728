from __future__ import annotations

import re

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension

from training.config import TrainConfig
from training.evaluation.intruders import count_intruders, intruders
from training.model import load_base


def test_a_strong_foreign_direction_is_one_and_a_stronger_own_one_is_none() -> None:
    torch.manual_seed(0)
    weight = torch.linalg.qr(torch.randn(40, 40)).Q @ torch.diag(torch.linspace(2, 1, 40))
    weight = weight @ torch.linalg.qr(torch.randn(40, 40)).Q
    u, s, v = torch.linalg.svd(weight)
    foreign = torch.outer(u.sum(dim=1) / 40**0.5, v[0]) * 20
    assert intruders(weight, weight, 8) == 0
    assert intruders(weight, weight + torch.outer(u[:, 3], v[3]) * 20, 8) == 0
    assert intruders(weight, weight + foreign, 8) == 1


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_counts_are_pefts(config: TrainConfig, quantization: str) -> None:
    base = load_base(config.base, quantization=quantization)
    if quantization == "nf4":
        # The first step without gradients re-lays 4-bit weights on some CPUs.
        with torch.no_grad():
            base(torch.arange(8)[None])
    torch.manual_seed(1)
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.5 if "layers.0" in name else 0.01)
    counts = count_intruders(model, 10)
    assert len(counts) == 4 and any(counts.values())
    if quantization == "nf4":
        return
    lines: list[str] = []
    reduce_intruder_dimension(model, top_k=10, logging_sink=lines.append)
    found = re.findall(r"([\w.]+): (?:Intruders: (\d+)|No intruders)", "\n".join(lines))
    peft = {name.removeprefix("base_model.model."): int(count or 0) for name, count in found}
    assert peft == counts


def test_adapters_that_moved_the_base_are_not_judged(config: TrainConfig) -> None:
    moved = get_peft_model(
        load_base(config.base), LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa")
    )
    assert count_intruders(moved, 10) == {}
