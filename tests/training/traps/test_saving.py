"""Traps 4, 8, 9, 10, 11 and 15: adapters that are not what they seem once they are saved."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from peft import PeftModel, save_as_lora
from safetensors.torch import load_file, save_file

from adapters.merge.checkpoint import Checkpoint
from tests.training.learning import IDS, lesson, off_by, served_logits
from training.artifact import check_servable
from training.config import LoraSection, TrainConfig
from training.configfile import parse_config
from training.errors import InvalidConfig, UnservableAdapter
from training.methods.table import METHODS
from training.model import load_base
from training.train import run


@pytest.fixture
def quick(config: TrainConfig) -> TrainConfig:
    return replace(config, optim=replace(config.optim, max_steps=2, learning_rate=3e-2))


def test_trap_4_adapters_over_four_bits_stay_in_float32_and_the_story_says_so(quick: TrainConfig) -> None:
    result = run(replace(quick, method="dora", quantization="nf4"))
    tensors = load_file(result.output / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert json.loads((result.output / "training.json").read_text())["weights_dtype"] == ["F32"]


def test_trap_8_pefts_conversion_of_dora_drops_its_magnitude_and_ours_keeps_it(
    quick: TrainConfig, tmp_path: Path
) -> None:
    taught = lesson(replace(quick, method="dora"), tmp_path / "run")
    taught.train()
    for name, weight in taught.learner.weights.items():
        if "magnitude" in name:
            weight.data *= 1.5
    trained = taught.logits()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_as_lora(tmp_path / "theirs", taught.learner.model, rank=4)
    theirs = PeftModel.from_pretrained(load_base(quick.base), tmp_path / "theirs").eval()
    assert off_by(theirs(input_ids=IDS).logits.detach(), trained) > 0.1
    assert off_by(served_logits(taught.config, taught.save()), trained) < 1e-5


def test_trap_9_a_pair_that_fits_only_the_rewritten_base_is_never_what_comes_out(
    quick: TrainConfig, tmp_path: Path
) -> None:
    taught = lesson(replace(quick, method="pissa"), tmp_path / "run")
    taught.train()
    taught.learner.model.save_pretrained(str(tmp_path / "raw"))
    with pytest.raises(UnservableAdapter, match="path_initial_model_for_weight_conversion"):
        check_servable(tmp_path / "raw", taught.learner.shapes)
    # A start that is not the one that was taken out of the base: the conversion is measured, not believed.
    path = taught.place / "start" / "adapter_model.safetensors"
    save_file({name: tensor * 0.5 for name, tensor in load_file(path).items()}, path)
    with pytest.raises(UnservableAdapter, match="the conversion of lora.init = pissa has failed"):
        taught.save()


def test_trap_10_codes_that_a_forward_pass_has_repacked_change_no_adapter(
    quick: TrainConfig, tmp_path: Path
) -> None:
    taught = lesson(replace(quick, method="loftq"), tmp_path / "run")
    taught.logits()
    taught.train()
    trained = taught.logits()
    assert off_by(served_logits(taught.config, taught.save()), trained) < 2e-2


def test_loftq_starts_nearer_to_the_full_weights_by_its_scale(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, method="loftq", lora=LoraSection(rank=8, alpha=32.0))
    taught = lesson(config, tmp_path / "run")
    name = "model.layers.1.mlp.up_proj"
    linear = taught.learner.model.get_base_model().get_submodule(name)
    codes, full = linear.base_layer.weight, Checkpoint(Path(config.base)).dense(f"{name}.weight")
    lost = full - dequantize_4bit(codes.data, codes.quant_state).float()
    start = linear.get_delta_weight("default").detach()
    values = torch.linalg.svdvals(lost)
    assert (lost - start).norm() == pytest.approx(float(values[8:].norm()), rel=1e-3)


def test_traps_11_and_15_no_setting_trains_a_bias(quick: TrainConfig, tmp_path: Path) -> None:
    for method in ("lora", "dora", "adalora", "vera"):
        taught = lesson(replace(quick, method=method), tmp_path / method)
        settings = taught.learner.model.peft_config["default"].to_dict()
        assert settings["bias"] == "none" and not settings.get("lora_bias")
        assert not any("bias" in name for name in taught.learner.weights)
    with pytest.raises(InvalidConfig, match="lora.bias is not an option"):
        parse_config({"base": "b", "output": "o", "data": {"train": "t"}, "lora": {"bias": "lora_only"}})
    assert "bottleneck" not in METHODS
