"""Decides whether a run goes the fast way, and puts a model on it."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from peft import PeftModel, PeftType

from training.config import TrainConfig
from training.distributed.world import NONE, ZERO3, World
from training.fast.head import make_loss_fast
from training.fast.modules import make_linears_fast


def goes_fast(config: TrainConfig, world: World) -> bool:
    """`auto` is on a GPU, where it pays; DeepSpeed gathers weights only for modules that it sees called."""
    if config.fast == "auto":
        return torch.cuda.is_available() and world.sharding != ZERO3
    return config.fast == "on"


def make_fast(model: PeftModel, world: World) -> None:
    """Puts a LoRA model on the fast way; what does not fit stays on PEFT's and transformers' own."""
    if model.peft_config[model.active_adapter].peft_type != PeftType.LORA:
        return
    causal = model.get_base_model()
    make_linears_fast(model)
    if world.sharding == NONE:
        make_loss_fast(causal)
    if torch.cuda.is_available() and find_spec("liger_kernel"):
        _use_liger(causal)


def _use_liger(causal: Any) -> None:
    """Norms, rotary embedding and SwiGLU in one kernel each, for a family that Liger knows."""
    from liger_kernel.transformers.monkey_patch import (
        MODEL_TYPE_TO_APPLY_LIGER_FN,
        _apply_liger_kernel_to_instance,
    )

    if causal.config.model_type in MODEL_TYPE_TO_APPLY_LIGER_FN:
        _apply_liger_kernel_to_instance(
            model=causal,
            rope=True,
            rms_norm=True,
            swiglu=True,
            cross_entropy=False,
            fused_linear_cross_entropy=False,
        )
