"""Models that come out of training are bases: served, extracted from, and moved where they should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from adapters.merge.checkpoint import Checkpoint
from adapters.merge.factors import extract
from tests.toys import drive, reference_answer
from tests.training.learning import IDS, lesson, off_by
from training.config import LoraSection, TrainConfig
from training.errors import InvalidConfig
from training.train import run


@pytest.mark.parametrize("method", ["full", "freeze_full"])
def test_the_folder_is_served_as_a_base_and_extracted_from(
    method: str, config: TrainConfig, tmp_path: Path
) -> None:
    optim = replace(config.optim, max_steps=2, learning_rate=1e-3)
    last = 1 if method == "freeze_full" else 2
    config = replace(config, method=method, last_layers=last, lora=LoraSection(), optim=optim)
    result = run(config)
    old, new = (
        load_file(Path(config.base) / "model.safetensors"),
        load_file(result.output / "model.safetensors"),
    )
    assert old.keys() == new.keys()
    moved = {name for name in old if not torch.equal(old[name], new[name])}
    if method == "full":
        assert moved == set(old)
    else:
        assert moved and all(".layers.1." in name for name in moved)
    model = AutoModelForCausalLM.from_pretrained(result.output).eval()
    assert model.config.use_cache and AutoTokenizer.from_pretrained(result.output).chat_template

    prompt = [11, 12, 13]
    driven = drive(result.output, tmp_path / "store")
    answer = driven.answers(driven.submit(prompt, max_new_tokens=4))[0]
    assert answer == reference_answer(model, prompt, 4)[: len(answer)]
    found = extract(Checkpoint(Path(config.base)), Checkpoint(result.output), 4, None)
    assert {name.split(".")[2] for name in found.pairs} == ({"0", "1"} if method == "full" else {"1"})


def test_the_folder_computes_what_the_trainer_did(config: TrainConfig, tmp_path: Path) -> None:
    taught = lesson(
        replace(config, method="full", optim=replace(config.optim, max_steps=1)), tmp_path / "run"
    )
    taught.train()
    trained = taught.logits()
    taught.learner.save(tmp_path / "model", taught.tokenizer, taught.examples)
    with torch.inference_mode():
        saved = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()(input_ids=IDS).logits
    assert off_by(saved, trained) < 1e-6


def test_more_last_layers_than_there_are(config: TrainConfig, tmp_path: Path) -> None:
    for method in ("freeze", "freeze_full"):
        with pytest.raises(InvalidConfig, match="last_layers: the base has 2 layers, not 3"):
            lesson(replace(config, method=method, last_layers=3), tmp_path / "run")
