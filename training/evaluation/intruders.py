"""Intruder dimensions: directions that rank high in W + sBA and are none of W's own.

They go along with forgetting (arXiv 2410.21228). A direction counts where the largest |cosine| of its left
singular vector with those of W is below EPSILON, as in PEFT's `reduce_intruder_dimension`, which can take
them out of an adapter again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from training.distributed.gather import opened

EPSILON = 0.5
# Inits that move part of the base into the adapter: what the live model calls its base is not the base.
_MOVING_INITS = ("pissa", "olora", "corda", "lora_ga")
# What PEFT puts before a base's own names.
_PREFIX = "base_model.model."


def count_intruders(model: Any, top: int) -> dict[str, int]:
    """Linear -> intruders among its `top` first directions; {} for models that are no plain LoRA.

    Every process that has a share of the model must ask.
    """
    if not isinstance(model, PeftModel):
        return {}
    config = model.active_peft_config
    moves = str(config.__dict__.get("init_lora_weights", "")).startswith(_MOVING_INITS)
    if str(config.peft_type.value) != "LORA" or config.use_dora or moves:
        return {}
    return {name: intruders(weight, weight + delta, top) for name, weight, delta in _updates(model)}


@torch.no_grad()
def intruders(before: Tensor, after: Tensor, top: int) -> int:
    """How many of the `top` first left singular vectors of `after` [out, in] are none of `before`'s."""
    own = torch.linalg.svd(before, full_matrices=False).U  # (out, min(out, in))
    new = torch.linalg.svd(after, full_matrices=False).U[:, :top]
    nearest = (new.T @ own).abs().max(dim=1).values
    return int((nearest < EPSILON).sum())


@torch.no_grad()
def _updates(model: PeftModel) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Name, W and sBA of every adapted linear, in float32."""
    adapted = [
        name for name, module in model.named_modules() if isinstance(module, LoraLayer) and module.lora_B
    ]
    for name in adapted:
        with opened(model, name) as layer:
            delta: Tensor = layer.get_delta_weight(model.active_adapter).float()
            weight = _weight(layer.get_base_layer(), delta)
        yield name.removeprefix(_PREFIX), weight, delta


def _weight(linear: Any, like: Tensor) -> Tensor:
    """[out, in] as `like`, as the linear applies it: what a quantized one keeps in memory may be re-laid."""
    if type(linear) is nn.Linear:
        # A copy: shares are let go of before it is looked at.
        return linear.weight.to(torch.float32, copy=True)
    dtype = getattr(linear, "compute_dtype", None) or linear.weight.dtype
    columns = torch.eye(like.shape[1], dtype=dtype, device=like.device)
    applied: Tensor = linear(columns).T.float()
    bias = getattr(linear, "bias", None)
    return applied if bias is None else applied - bias.float()[:, None]
