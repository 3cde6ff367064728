"""Trainer's arguments, from the settings of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from training.config import TrainConfig
from training.distributed.world import ALONE, World
from training.fast.install import goes_fast
from training.methods.optimizers import optimizer_name
from training.model import resolve_dtype


def training_arguments(
    config: TrainConfig,
    folder: Path,
    evaluates: bool,
    world: World = ALONE,
    kind: type[TrainingArguments] = TrainingArguments,
    **more: Any,
) -> TrainingArguments:
    """Arguments of a run that keeps its checkpoints in `folder`; `evaluates` if there are held-out rows.

    `kind` are those of a trainer that wants `more`.
    """
    arguments = kind(
        output_dir=str(folder),
        **_course(config, world),
        **_rhythm(config, evaluates),
        **_device(config, world),
        **more,
    )
    # Without a launcher Trainer would spread one process over every GPU it sees, by DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _course(config: TrainConfig, world: World) -> dict[str, Any]:
    """How far and how fast."""
    optim = config.optim
    return {
        "per_device_train_batch_size": optim.batch_size,
        "per_device_eval_batch_size": optim.batch_size,
        "gradient_accumulation_steps": optim.accumulation,
        "learning_rate": optim.learning_rate,
        "lr_scheduler_type": "constant_with_warmup" if optim.schedule == "constant" else optim.schedule,
        "warmup_steps": optim.warmup_steps,
        "num_train_epochs": optim.epochs,
        "max_steps": optim.max_steps or -1,
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.clip,
        "optim": optimizer_name(config, world),
        "seed": config.seed,
    }


def _rhythm(config: TrainConfig, evaluates: bool) -> dict[str, Any]:
    """When what is measured, kept and told."""
    optim = config.optim
    rhythm = "steps" if optim.eval_every else "epoch"
    keeps_best = bool(optim.patience)
    return {
        "eval_strategy": rhythm if evaluates else "no",
        "eval_steps": optim.eval_every,
        # Checkpoints to go on from are asked for apart from these, which the best weights are taken from.
        "save_strategy": rhythm if keeps_best else "no",
        "save_steps": optim.eval_every or 500,
        "restore_callback_states_from_checkpoint": True,
        "load_best_model_at_end": keeps_best,
        "metric_for_best_model": "eval_loss" if keeps_best else None,
        "greater_is_better": False if keeps_best else None,
        "logging_steps": config.log_every,
        "logging_nan_inf_filter": False,
        "disable_tqdm": True,
        "report_to": "none",
    }


def _device(config: TrainConfig, world: World) -> dict[str, Any]:
    """On what, and in which numbers."""
    on_gpu = torch.cuda.is_available()
    is_bfloat16 = resolve_dtype(config.dtype) == torch.bfloat16
    return {
        "remove_unused_columns": False,
        "dataloader_pin_memory": on_gpu,
        "use_cpu": not on_gpu,
        # The fast way computes in the base's own format, without casts.
        "bf16": is_bfloat16 and on_gpu and not goes_fast(config, world),
        "accelerator_config": {
            # Processes have met before the model was loaded.
            "use_configured_state": world.is_shared,
            # The next batch is copied without waiting for the step before.
            "non_blocking": on_gpu,
        },
        # Every weight that learns takes part in every pass.
        "ddp_find_unused_parameters": False,
    }
