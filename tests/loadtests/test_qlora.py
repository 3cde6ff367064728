from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from loadtests.qlora import QloraConfig, cases, run
from loadtests.random_causal import random_causal
from loadtests.scaling import ScalingConfig
from loadtests.scaling import run as run_scaling

TINY = {"length": 16, "rank": 2, "steps": 1, "warmup": 2}


def test_both_loops_train_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "figures.json"
    # Whether a tiny model is faster on a CPU is no matter; that figures are real is.
    run(QloraConfig(model="tiny", sequences="1", json=str(file), **TINY))
    pairs = json.loads(file.read_text())
    assert [pair["case"]["checkpointing"] for pair in pairs] == [True, False]
    for pair in pairs:
        assert pair["plain"]["tokens_per_second"] > 0 and pair["own"]["tokens_per_second"] > 0
        assert pair["own"]["loss"] == pytest.approx(pair["plain"]["loss"], rel=0.02)
    shown = capsys.readouterr().out
    assert "1 x 16, checkpointing" in shown and "WRONG" not in shown


def test_cases_are_all_pairs_of_the_options() -> None:
    found = cases(QloraConfig(sequences="1,4"))
    assert [(case.sequences, case.checkpointing) for case in found] == [
        (1, True),
        (4, True),
        (1, False),
        (4, False),
    ]


def test_a_random_base_is_a_models_in_every_part() -> None:
    model = random_causal("tiny", "nf4", torch.device("cpu"), torch.float32)
    assert not any(each.is_meta for each in (*model.parameters(), *model.buffers()))
    assert type(model.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    assert torch.isfinite(model(input_ids=torch.arange(8)[None]).logits).all()


@pytest.mark.parametrize("text", ["0", "one", "1,"])
def test_wrong_sequences_are_told_at_once(text: str) -> None:
    with pytest.raises(ValueError, match="must be whole numbers"):
        QloraConfig(sequences=text)


def test_wrong_models_are_told_at_once() -> None:
    with pytest.raises(ValueError, match="models '2b' may name 8b, 1b, small, tiny"):
        ScalingConfig(models="2b")


@pytest.mark.long
def test_two_processes_are_measured_against_one(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert run_scaling(ScalingConfig(models="tiny", sequences=1, json=str(file), **TINY)) == 0
    found = json.loads(file.read_text())
    assert [(each["sharding"], each["processes"]) for each in found] == [
        ("alone", 1),
        ("ddp", 2),
        ("fsdp2", 2),
    ]
    assert all(each["tokens_per_second"] > 0 and each["efficiency"] > 0 for each in found)
