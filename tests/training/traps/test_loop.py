"""Traps 3, 5, 6, 12 and 14: what a training loop does wrong without a word."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import TrainingArguments

from tests.training.learning import IDS, Lesson, lesson
from training.arguments import training_arguments
from training.config import TrainConfig
from training.data import read_rows
from training.encode import encode_rows
from training.errors import InvalidData


@pytest.mark.parametrize(
    "name",
    ["warmup_ratio", "evaluation_strategy", "logging_dir", "save_safetensors", "group_by_length"],
)
def test_trap_3_arguments_that_transformers_has_dropped_are_not_ours(
    name: str, config: TrainConfig, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=name):
        TrainingArguments(output_dir=str(tmp_path), **{name: "x"})
    assert not hasattr(training_arguments(config, tmp_path, True), name)


def test_trap_5_set_adapter_changes_what_requires_gradients_and_no_optimizer_is_built_of_that(
    config: TrainConfig, tmp_path: Path
) -> None:
    taught = lesson(config, tmp_path / "run")
    model = taught.learner.model
    model.add_adapter("other", LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    model.set_adapter("other")
    assert not any(weight.requires_grad for weight in taught.learner.weights.values())
    with pytest.raises(AssertionError, match="the optimizer has other weights"):
        taught.trainer().create_optimizer()
    model.set_adapter("default")
    taught.trainer().create_optimizer()


def test_trap_6_peft_takes_no_mixed_batch_in_training(config: TrainConfig, tmp_path: Path) -> None:
    model = lesson(config, tmp_path / "run").learner.model.train()
    with pytest.raises(ValueError, match="adapter_names"):
        model(input_ids=IDS, adapter_names=["default", "__base__"])


def test_trap_12_rows_without_a_loss_token_are_named_by_their_lines(
    config: TrainConfig, tmp_path: Path
) -> None:
    taught = lesson(config, tmp_path / "run")
    taught.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] != 'assistant' %}{{ m['content'] }}{% endif %}{% endfor %}"
    )
    with pytest.raises(InvalidData, match="line 1: no token of this row is trained on") as caught:
        encode_rows(read_rows(config.data.train), taught.tokenizer, config.data, config.data.train)
    assert len(caught.value.problems) == 16


def _gradients(taught: Lesson) -> dict[str, torch.Tensor]:
    batch = torch.tensor([taught.examples[0].input_ids])
    taught.learner.model.train()(input_ids=batch, labels=batch).loss.backward()
    return {name: weight.grad for name, weight in taught.learner.weights.items() if weight.grad is not None}


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_trap_14_checkpointing_leaves_every_gradient_as_it_is(
    quantization: str, config: TrainConfig, tmp_path: Path
) -> None:
    config = replace(config, quantization=quantization)
    plain = _gradients(lesson(config, tmp_path / "plain"))
    thrifty = _gradients(lesson(replace(config, gradient_checkpointing=True), tmp_path / "thrifty"))
    assert plain.keys() == thrifty.keys() and len(plain) == 28
    assert all(float(plain[name].abs().max()) > 0 for name in plain if "lora_B" in name)
    for name, gradient in plain.items():
        torch.testing.assert_close(thrifty[name], gradient)
