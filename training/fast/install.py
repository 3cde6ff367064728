"""Decides whether a run goes the fast way, and puts a model on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from peft import PeftModel

from training.config import TrainConfig
from training.distributed.world import NONE, ZERO3, World
from training.fast.head import make_loss_fast
from training.fast.layers import make_layers_fast
from training.fast.modules import make_linears_fast
from training.methods.table import METHODS


def goes_fast(config: TrainConfig, world: World, gpu: bool | None = None) -> bool:
    """`auto` is on a GPU, where it pays, if the run can; `gpu`: whether it has one, if not this process'."""
    if config.fast == "auto":
        return (torch.cuda.is_available() if gpu is None else gpu) and can_go_fast(config, world)
    return config.fast == "on"


def can_go_fast(config: TrainConfig, world: World) -> bool:
    """Plain pairs can; DeepSpeed gathers weights only for modules that it sees called."""
    is_plain = METHODS[config.method].family == "lora" and not config.lora.dora and not config.lora.dropout
    return is_plain and config.quantization != "int8" and world.sharding != ZERO3


def make_fast(model: PeftModel, world: World) -> None:
    """Puts a LoRA model on the fast way; what does not fit stays on PEFT's and transformers' own."""
    causal = model.get_base_model()
    make_linears_fast(model)
    num_fast = 0
    if world.sharding == NONE:
        num_fast = make_layers_fast(causal)
        make_loss_fast(causal)
    if not num_fast and torch.cuda.is_available() and find_spec("liger_kernel"):
        _use_liger(causal)


def _use_liger(causal: Any) -> None:
    """Norms and SwiGLU of this model in one kernel each, for a family that Liger knows."""
    from liger_kernel.transformers.monkey_patch import (
        MODEL_TYPE_TO_APPLY_LIGER_FN,
        _apply_liger_kernel_to_instance,
    )

    if causal.config.model_type not in MODEL_TYPE_TO_APPLY_LIGER_FN:
        return
    with _kept(sys.modules[type(causal).__module__]):
        _apply_liger_kernel_to_instance(
            model=causal,
            rope=False,
            rms_norm=True,
            swiglu=True,
            cross_entropy=False,
            fused_linear_cross_entropy=False,
        )


@contextmanager
def _kept(module: ModuleType) -> Iterator[None]:
    """What is put into `module` meanwhile is taken out again: models made later have their own classes."""
    before = dict(vars(module))
    try:
        yield
    finally:
        vars(module).update(before)
