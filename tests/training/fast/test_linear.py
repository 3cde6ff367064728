from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from training.config import LoraSection, TrainConfig
from training.fast.linear import Projection, lora_linears
from training.fast.modules import FastLinear, FastLinear4bit, make_linears_fast
from training.model import adapt, load_base


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("with_bias", [False, True])
def test_gradients_are_those_of_the_formula(with_bias: bool) -> None:
    """Of three linears that share rows, the second without a pair."""
    torch.manual_seed(0)
    widths, scales = (6, 3, 4), (0.7, 1.0, 2.0)
    weights = [drawn(width, 5) for width in widths]
    biases = [drawn(width) if with_bias else None for width in widths]
    x, a, b, c, d = (drawn(*shape).requires_grad_() for shape in ((2, 3, 5), (2, 5), (6, 2), (3, 5), (4, 3)))
    each = zip(weights, biases, widths, scales, strict=True)
    projections = [
        Projection(weight.to, bias, width, width != 3, scale) for weight, bias, width, scale in each
    ]

    def fast(x: torch.Tensor, *pairs: torch.Tensor) -> torch.Tensor:
        return lora_linears(x, projections, pairs)

    plain = [
        torch.nn.functional.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)
    ]
    slow = torch.cat((plain[0] + 0.7 * (x @ a.T) @ b.T, plain[1], plain[2] + 2.0 * (x @ c.T) @ d.T), -1)
    torch.testing.assert_close(fast(x, a, b, c, d), slow)
    assert torch.autograd.gradcheck(fast, (x, a, b, c, d))


def test_linears_without_a_pair_are_linears() -> None:
    weight, x = drawn(4, 3), drawn(7, 3).requires_grad_()
    y = lora_linears(x, [Projection(weight.to, None, 4)], ())
    torch.testing.assert_close(y, x @ weight.T)
    (grad,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(grad, weight.sum(0).expand(7, 3))


def test_an_input_without_gradient_still_trains_the_pair() -> None:
    weight, x = drawn(4, 3), drawn(7, 3)
    a, b = drawn(2, 3).requires_grad_(), drawn(4, 2).requires_grad_()
    lora_linears(x, [Projection(weight.to, None, 4, True, 2.0)], (a, b)).sum().backward()
    expected = torch.autograd.grad((2.0 * (x @ a.T) @ b.T).sum(), (a, b))
    torch.testing.assert_close((a.grad, b.grad), expected)


def model(config: TrainConfig, fast: bool) -> Any:
    torch.manual_seed(3)
    adapted = adapt(load_base(config.base, quantization=config.quantization), config, fast=True)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    assert not fast or make_linears_fast(adapted) == 14
    return adapted


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_model_of_them_is_pefts(config: TrainConfig, quantization: str, checkpointing: bool) -> None:
    config = replace(config, quantization=quantization, gradient_checkpointing=checkpointing)
    ids = torch.arange(10, 42).view(2, 16)
    results = []
    for fast in (False, True):
        one = model(config, fast).train()
        loss = one(input_ids=ids, labels=ids).loss
        loss.backward()
        results.append((loss.detach(), {n: p.grad for n, p in one.named_parameters() if p.requires_grad}))
    (slow_loss, slow), (fast_loss, fast_grads) = results
    torch.testing.assert_close(slow_loss, fast_loss)
    assert slow.keys() == fast_grads.keys() and len(slow) == 28
    for name, grad in slow.items():
        torch.testing.assert_close(grad, fast_grads[name], rtol=1e-4, atol=1e-6)


def test_what_is_special_goes_pefts_way(config: TrainConfig) -> None:
    special = replace(config, lora=LoraSection(rank=4, dropout=0.5))
    adapted = model(special, fast=True)
    linear = adapted.get_base_model().model.layers[0].mlp.up_proj
    assert type(linear) is FastLinear and not linear.is_plain()

    adapted = model(config, fast=True)
    linear = adapted.get_base_model().model.layers[0].mlp.up_proj
    x = torch.randn(3, 64)
    assert linear.is_plain()
    live = linear(x)
    with adapted.disable_adapter():
        assert not linear.is_plain()
        torch.testing.assert_close(linear(x), linear.base_layer(x))
    adapted.merge_adapter()
    assert not linear.is_plain()
    torch.testing.assert_close(linear(x), live, rtol=1e-4, atol=1e-5)


def test_what_is_saved_is_what_peft_saves(config: TrainConfig) -> None:
    slow, fast = (model(config, fast) for fast in (False, True))
    assert slow.state_dict().keys() == fast.state_dict().keys()
    four_bit = model(replace(config, quantization="nf4"), fast=True)
    assert type(four_bit.get_base_model().model.layers[0].mlp.up_proj) is FastLinear4bit
