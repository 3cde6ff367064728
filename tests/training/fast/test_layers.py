from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from training.config import LoraSection, TrainConfig
from training.fast.block import Block
from training.fast.layers import make_layers_fast
from training.fast.modules import make_linears_fast
from training.model import adapt, load_base

SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
IDS = torch.arange(10, 42).view(2, 16)


def over(base: Any, config: TrainConfig, fast: bool) -> Any:
    """An adapter that does something; with `fast`, over fast linears and layers."""
    torch.manual_seed(3)
    adapted = adapt(base, config, fast=True)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    if fast:
        make_linears_fast(adapted)
        assert make_layers_fast(adapted.get_base_model()) == adapted.config.num_hidden_layers
    return adapted.train()


def base_of(family: str) -> Any:
    torch.manual_seed(4)
    base = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SMALL), dtype=torch.float32)
    for name, weight in base.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(weight, mean=1.0, std=0.3)
    return base.eval()


def learned(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return loss.detach(), {name: w.grad for name, w in model.named_parameters() if w.requires_grad}


def trained(model: Any) -> list[torch.Tensor]:
    return [weight for weight in model.parameters() if weight.requires_grad]


def assert_same(slow: Any, fast: Any) -> None:
    (slow_loss, slow_grads), (fast_loss, fast_grads) = learned(slow), learned(fast)
    torch.testing.assert_close(fast_loss, slow_loss)
    assert fast_grads.keys() == slow_grads.keys()
    for name, grad in slow_grads.items():
        torch.testing.assert_close(fast_grads[name], grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_layers_train_as_transformers_and_peft(
    config: TrainConfig, quantization: str, checkpointing: bool
) -> None:
    config = replace(config, quantization=quantization, gradient_checkpointing=checkpointing)
    assert_same(*(over(load_base(config.base, quantization=quantization), config, f) for f in (False, True)))


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("targets", [("q_proj", "down_proj"), ("gate_proj", "up_proj", "v_proj")])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_linears_without_an_adapter_are_parts_of_it(
    config: TrainConfig, family: str, targets: tuple[str, ...], checkpointing: bool
) -> None:
    config = replace(
        config, gradient_checkpointing=checkpointing, lora=LoraSection(rank=3, targets=targets, rslora=True)
    )
    assert_same(*(over(base_of(family), config, fast) for fast in (False, True)))


def test_what_is_special_goes_transformers_way(config: TrainConfig) -> None:
    model = over(base_of("llama"), config, True)
    mask = torch.ones_like(IDS)
    mask[1, :5] = 0
    left = model(input_ids=IDS, attention_mask=mask).logits
    other = over(base_of("llama"), config, False)
    torch.testing.assert_close(left, other(input_ids=IDS, attention_mask=mask).logits)
    with model.disable_adapter(), other.disable_adapter():
        torch.testing.assert_close(model(input_ids=IDS).logits, other(input_ids=IDS).logits)
    torch.testing.assert_close(model.eval()(input_ids=IDS).logits, other.eval()(input_ids=IDS).logits)
    made = [each.generate(IDS, max_new_tokens=3, do_sample=False) for each in (model, other)]
    assert made[0].tolist() == made[1].tolist()


def test_layers_that_learn_more_than_pairs_are_left_alone(config: TrainConfig) -> None:
    model = over(base_of("llama"), config, False)
    make_linears_fast(model)
    causal = model.get_base_model()
    causal.model.layers[1].input_layernorm.weight.requires_grad_(True)
    assert make_layers_fast(causal) == 2
    causal.config.model_type = "gemma3"
    assert make_layers_fast(causal) == 0


def test_recomputing_keeps_two_inputs_a_layer(config: TrainConfig) -> None:
    """Beside the last layer, whose activations are needed at once, only what layers' halves begin with."""
    kept: dict[bool, int] = {}
    for checkpointing in (False, True):
        model = over(base_of("llama"), replace(config, gradient_checkpointing=checkpointing), True)
        sizes: dict[int, int] = {}

        def note(tensor: torch.Tensor, sizes: dict[int, int] = sizes) -> torch.Tensor:
            if not isinstance(tensor, torch.nn.Parameter):
                sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            hidden = model.get_base_model().model(input_ids=IDS).last_hidden_state
        hidden.sum().backward()
        kept[checkpointing] = sum(sizes.values())
    assert kept[True] < kept[False] / 2


def test_halves_are_computed_again_once_whatever_transformers_would_do_around_them(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Version 5.17 recomputes in a layer's call, later ones in a forward that is not theirs here."""

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        inside = partial(torch.nn.Module.__call__, layer, **kwargs)
        if layer.gradient_checkpointing and layer.training:
            return layer._gradient_checkpointing_func(inside, *args)
        return inside(*args)

    monkeypatch.setattr(LlamaDecoderLayer, "__call__", call)
    model = over(base_of("llama"), replace(config, gradient_checkpointing=True), True)
    count, inner = Counter[int](), Block.inner
    monkeypatch.setattr(
        Block, "inner", lambda block, *args: (count.update([id(block)]), inner(block, *args))[1]
    )
    model.get_base_model().model(input_ids=IDS).last_hidden_state.sum().backward()
    num_layers = len(model.get_base_model().model.layers)
    assert sorted(count.values()) == [1, 1] + [2, 2] * (num_layers - 1)


def test_unusual_passes_recompute_as_transformers_does(config: TrainConfig) -> None:
    """A mask that is not causal alone: gradients are the same, and nothing but inputs of layers is kept."""
    mask = torch.ones(IDS.shape[0], 1, IDS.shape[1], IDS.shape[1], dtype=torch.bool)
    grads = []
    for checkpointing in (False, True):
        model = over(base_of("llama"), replace(config, gradient_checkpointing=checkpointing), True)
        model.get_base_model().model(input_ids=IDS, attention_mask=mask).last_hidden_state.sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert grads[0]
    for kept, again in zip(*grads, strict=True):
        torch.testing.assert_close(kept, again)


def test_processes_that_share_gradients_see_each_once(config: TrainConfig, tmp_path: Path) -> None:
    config = replace(config, gradient_checkpointing=True)
    alone, shared = (over(base_of("llama"), config, True) for _ in range(2))
    torch.distributed.init_process_group(
        "gloo", init_method=(tmp_path / "meeting").as_uri(), rank=0, world_size=1
    )
    try:
        wrapped = torch.nn.parallel.DistributedDataParallel(shared)
        for model in (alone, wrapped):
            # Twice: a gradient that was given twice or never would fail the second pass.
            for _ in range(2):
                model(input_ids=IDS, labels=IDS).loss.backward()
    finally:
        torch.distributed.destroy_process_group()
    for mine, theirs in zip(trained(shared), trained(alone), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=0, atol=0)
