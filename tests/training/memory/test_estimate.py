"""Estimates against real steps: small ones here, large ones as they were measured on a GPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from training.check.model import model_facts
from training.config import DataConfig, LoraSection, OptimConfig, TrainConfig
from training.data import read_rows
from training.encode import encode_rows
from training.memory.estimate import MemoryEstimate, estimate, readable
from training.memory.measure import measured
from training.memory.rehearsal import Batch
from training.memory.skeleton import skeleton
from training.methods.settle import settled
from training.methods.table import METHODS
from training.model import load_tokenizer

ROWS = [{"prompt": "Where is my kettle? " * n, "completion": "It is on its way. " * n} for n in (3, 4, 5, 5)]


@pytest.fixture(scope="module")
def deep(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The micro base's tokenizer under a model of six layers."""
    return reshaped(base, tmp_path_factory.mktemp("deep"), num_hidden_layers=6, vocab_size=1024)


def reshaped(base: Path, folder: Path, **changes: Any) -> Path:
    shutil.copytree(base, folder, dirs_exist_ok=True)
    structure = AutoConfig.from_pretrained(base)
    structure.update(changes)
    AutoModelForCausalLM.from_config(structure).save_pretrained(folder)
    return folder


def foretold(config: TrainConfig, gpu: bool) -> tuple[MemoryEstimate, int]:
    """The estimate and the peak of two real steps."""
    rows = read_rows(config.data.train)[: config.optim.batch_size]
    examples = encode_rows(rows, load_tokenizer(config.base), config.data, config.data.train)
    lengths = {len(example.input_ids) for example in examples}
    counted = sum(example.num_loss_tokens for example in examples)
    batch = Batch(len(rows), max(lengths), ragged=len(lengths) > 1, counted=counted)
    return estimate(config, batch, gpu=gpu), measured(config, rows)


@pytest.mark.parametrize(
    ("fast", "quantization", "checkpointing", "batch_size"),
    [
        ("off", "none", False, 4),
        ("off", "nf4", True, 4),
        pytest.param("off", "nf4", False, 1, marks=pytest.mark.long),
        ("on", "nf4", True, 4),
        pytest.param("on", "none", False, 4, marks=pytest.mark.long),
        pytest.param("on", "none", True, 1, marks=pytest.mark.long),
        pytest.param("on", "nf4", False, 4, marks=pytest.mark.long),
    ],
)
def test_the_estimate_is_within_a_tenth_of_real_steps(
    deep: Path,
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    fast: str,
    quantization: str,
    checkpointing: bool,
    batch_size: int,
) -> None:
    config = TrainConfig(
        base=str(deep),
        output=tmp_path / "out",
        data=DataConfig(train=write_jsonl(ROWS)),
        lora=LoraSection(rank=16),
        optim=OptimConfig(batch_size=batch_size, learning_rate=1e-3),
        quantization=quantization,
        gradient_checkpointing=checkpointing,
        fast=fast,
        threads=1,
    )
    guess, real = foretold(config, gpu=False)
    assert guess.peak == pytest.approx(real, rel=0.1)


@pytest.mark.long
@pytest.mark.parametrize("fast", ["off", "on"])
def test_layers_below_those_that_learn_are_weighed_too(
    deep: Path, tmp_path: Path, write_jsonl: Callable[..., Path], fast: str
) -> None:
    config = TrainConfig(
        base=str(deep),
        output=tmp_path / "out",
        data=DataConfig(train=write_jsonl([{**row, "prompt": row["prompt"] * 8} for row in ROWS])),
        lora=LoraSection(layers_to_transform=(4, 5)),
        optim=OptimConfig(batch_size=4, learning_rate=1e-3),
        gradient_checkpointing=True,
        fast=fast,
        threads=1,
    )
    guess, real = foretold(config, gpu=False)
    assert guess.peak == pytest.approx(real, rel=0.1)


@pytest.mark.long
@pytest.mark.parametrize("method", ["full", "dora", "freeze_full", "ia3"])
def test_estimates_of_other_methods_are_as_near(
    deep: Path, tmp_path: Path, write_jsonl: Callable[..., Path], method: str
) -> None:
    config = TrainConfig(
        base=str(deep),
        output=tmp_path / "out",
        method=method,
        data=DataConfig(train=write_jsonl(ROWS)),
        optim=OptimConfig(batch_size=2, learning_rate=1e-3),
        threads=1,
    )
    guess, real = foretold(settled(config), gpu=False)
    assert guess.peak == pytest.approx(real, rel=0.1)


# GiB of a plain transformers + PEFT + bitsandbytes loop, one and four sequences of 1,024 tokens, on an H200.
MEASURED = [
    ("nf4", True, 4, 16.4),
    pytest.param("none", False, 4, 47.8, marks=pytest.mark.long),
    pytest.param("nf4", True, 1, 10.5, marks=pytest.mark.long),
    pytest.param("nf4", False, 1, 19.1, marks=pytest.mark.long),
    pytest.param("nf4", False, 4, 50.6, marks=pytest.mark.long),
    pytest.param("none", False, 1, 23.4, marks=pytest.mark.long),
]


@pytest.fixture(scope="module")
def eight_billion(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A configuration without weights."""
    folder = tmp_path_factory.mktemp("eight")
    structure = LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
    )
    structure.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(("quantization", "checkpointing", "rows", "real"), MEASURED)
def test_eight_billion_parameters_as_measured_on_a_gpu(
    eight_billion: str, quantization: str, checkpointing: bool, rows: int, real: float
) -> None:
    config = TrainConfig(
        base=eight_billion, quantization=quantization, gradient_checkpointing=checkpointing, fast="off"
    )
    guess = estimate(config, Batch(rows, 1024, ragged=False), gpu=True)
    assert guess.peak / 2**30 == pytest.approx(real, rel=0.05)


# Bytes of the fast way over NF4, activations kept, on an H200.
MEASURED_FAST = [(1, 12_315_118_592), pytest.param(4, 26_117_321_728, marks=pytest.mark.long)]


@pytest.mark.parametrize(("rows", "real"), MEASURED_FAST)
def test_eight_billion_parameters_on_the_fast_way(eight_billion: str, rows: int, real: int) -> None:
    config = TrainConfig(base=eight_billion, quantization="nf4")
    guess = estimate(config, Batch(rows, 1024, ragged=False), gpu=True)
    assert guess.peak == pytest.approx(real, rel=0.05)


def test_parts_follow_the_settings(base: Path) -> None:
    config, batch = TrainConfig(base=str(base), lora=LoraSection(rank=8)), Batch(2, 32, ragged=False)
    plain = estimate(config, batch, gpu=False)
    assert plain.optimizer == 2 * plain.adapter == 2 * plain.gradients
    assert plain.logits == 12 * 2 * 32 * 448
    late = estimate(replace(config, lora=LoraSection(rank=8, layers_to_transform=(1,))), batch, gpu=False)
    assert late.adapter == plain.adapter / 2
    assert late.activations < plain.activations


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_skeleton(base: Path, method: str) -> None:
    config = settled(TrainConfig(base=str(base), method=method, optim=OptimConfig(max_steps=20)))
    facts = model_facts(skeleton(config, torch.float32))
    assert facts.trained_parameters > 0
    assert facts.base_parameters == pytest.approx(102_720, rel=1e-3)


@pytest.mark.parametrize(
    "method",
    [
        "full",
        "prefix_tuning",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in METHODS
            if name not in ("full", "prefix_tuning")
        ),
    ],
)
def test_every_method_can_be_estimated(base: Path, method: str) -> None:
    config = settled(TrainConfig(base=str(base), method=method, optim=OptimConfig(max_steps=20)))
    guess = estimate(config, Batch(2, 16, ragged=True), gpu=False)
    assert guess.peak > guess.base + guess.adapter
    assert guess.activations > 0


def test_a_paged_optimizer_is_told_but_not_in_the_peak(base: Path) -> None:
    batch = Batch(1, 16, ragged=False)
    config = TrainConfig(base=str(base), quantization="nf4", fast="off")
    paged = estimate(config, batch, gpu=True)
    assert paged.optimizer == 2 * paged.adapter
    kept = estimate(replace(config, optim=OptimConfig(optimizer="adamw")), batch, gpu=True)
    assert kept.peak == paged.peak + paged.optimizer


def test_a_run_on_a_gpu_is_estimated_by_the_way_that_it_goes(base: Path) -> None:
    batch = Batch(2, 64, ragged=True)
    for config in (TrainConfig(base=str(base)), TrainConfig(base=str(base), lora=LoraSection(dropout=0.1))):
        auto, off = (estimate(replace(config, fast=fast), batch, gpu=True) for fast in ("auto", "off"))
        assert (auto.activations < off.activations) == (config.lora.dropout == 0)
        assert (auto == off) == (config.lora.dropout > 0)
        assert estimate(config, batch, gpu=False) == estimate(replace(config, fast="off"), batch, gpu=False)
    few = estimate(TrainConfig(base=str(base)), replace(batch, counted=16), gpu=True)
    assert few.logits < estimate(TrainConfig(base=str(base)), batch, gpu=True).logits


def test_sizes_for_readers() -> None:
    assert [readable(3 << bits) for bits in (10, 20, 29)] == ["3.0 KiB", "3.0 MiB", "1.50 GiB"]


@pytest.mark.gpu
@pytest.mark.parametrize("fast", ["auto", "off"])
@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_within_a_tenth_of_a_gpus_own_count(
    base: Path,
    tmp_path: Path,
    write_jsonl: Callable[..., Path],
    fast: str,
    quantization: str,
    checkpointing: bool,
) -> None:
    shape = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 12, "vocab_size": 32000}
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 64}
    large = reshaped(base, tmp_path / "large", **shape, **heads, max_position_embeddings=1024)
    rows = [{"prompt": row["prompt"] * 8, "completion": row["completion"] * 8} for row in ROWS]
    config = TrainConfig(
        base=str(large),
        output=tmp_path / "out",
        data=DataConfig(train=write_jsonl(rows)),
        optim=OptimConfig(batch_size=4, learning_rate=1e-3),
        quantization=quantization,
        gradient_checkpointing=checkpointing,
        fast=fast,
    )
    guess, real = foretold(config, gpu=True)
    assert guess.peak == pytest.approx(real, rel=0.1)
