"""Which optimizer steps the weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from peft.optimizers import create_loraplus_optimizer
from torch import nn
from transformers import Trainer

from training.config import TrainConfig
from training.distributed.world import ALONE, World
from training.fast.install import goes_fast

_log = logging.getLogger(__name__)
_PAGED = "paged_adamw_32bit"
_PLAIN = "adamw_torch_fused"


def optimizer_name(config: TrainConfig, world: World = ALONE) -> str:
    """What transformers calls the optimizer that `config` asks for, on this machine."""
    wanted, has_gpu = config.optim.optimizer, torch.cuda.is_available()
    if wanted == "auto":
        # Paging waits for the GPU at every step, and cannot be of shares.
        is_slow = not goes_fast(config, world) and not world.is_sharded
        return _PAGED if has_gpu and config.quantization != "none" and is_slow else _PLAIN
    if wanted.startswith("paged") and not has_gpu:
        _log.warning("optim.optimizer = %s pages out of a GPU, and there is none: using adamw", wanted)
        return _PLAIN
    return _PLAIN if wanted == "adamw" else wanted


def loraplus(trainer: Trainer, model: nn.Module, ratio: float) -> torch.optim.Optimizer:
    """LoRA+ over the optimizer that the trainer's arguments name: B learns `ratio` times faster than A."""
    kind, options = Trainer.get_optimizer_cls_and_kwargs(trainer.args, model)
    settings: Mapping[str, Any] = {**options, "loraplus_weight_decay": trainer.args.weight_decay}
    optimizer: torch.optim.Optimizer = create_loraplus_optimizer(
        model, kind, loraplus_lr_ratio=ratio, **settings
    )
    return optimizer
