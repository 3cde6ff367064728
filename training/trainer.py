"""The one place where transformers' Trainer is set up: arguments, metrics lines, token-exact evaluation."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import torch
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from training.config import TrainConfig
from training.encode import Example
from training.errors import Diverged
from training.evaluate import held_out_loss, padded
from training.model import Model, resolve_dtype
from training.progress import Progress, Report

METRICS_FILE = "metrics.jsonl"


def make_trainer(
    model: Model,
    train: list[Example],
    held: list[Example],
    config: TrainConfig,
    folder: Path,
    pad: int,
    report: Report | None,
) -> Trainer:
    """A trainer that is ready to go and writes `metrics.jsonl` into `folder`."""
    callbacks: list[TrainerCallback] = [_Metrics(folder / METRICS_FILE, report)]
    if config.optim.patience:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=config.optim.patience))
    trainer = _Trainer(
        model=model,
        args=_arguments(config, folder, bool(held)),
        train_dataset=[_features(example) for example in train],
        # Only its presence matters to Trainer: `evaluate` reads the examples themselves.
        eval_dataset=[_features(example) for example in held] or None,
        data_collator=lambda rows: _collated(rows, pad),
        callbacks=callbacks,
    )
    trainer.held, trainer.pad = held, pad
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Trainer(Trainer):  # type: ignore[misc]
    """Evaluates as nats per loss token over the whole held-out set, whatever the batches."""

    held: list[Example]
    pad: int
    control: TrainerControl

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        metrics = {"eval_loss": held_out_loss(self.model, self.held, self.pad, self.args.eval_batch_size)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Metrics(TrainerCallback):  # type: ignore[misc]
    """One JSON line per log, a sign of life per step, and a halt when the loss is no number."""

    def __init__(self, path: Path, report: Report | None) -> None:
        self._path = path
        self._report = report
        self._began = time.monotonic()
        self._latest: dict[str, float] = {}

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        loss = logs.get("loss", 0.0)
        if not math.isfinite(loss):
            raise Diverged(f"the loss was {loss} at step {state.global_step}: lower optim.learning_rate")
        self._latest |= logs
        if state.is_world_process_zero:
            line = {"step": state.global_step, "seconds": round(time.monotonic() - self._began, 3)} | logs
            with self._path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._report and state.is_world_process_zero:
            self._report(
                Progress(
                    phase="train",
                    step=state.global_step,
                    num_steps=state.max_steps,
                    seconds=time.monotonic() - self._began,
                    loss=self._latest.get("loss"),
                    eval_loss=self._latest.get("eval_loss"),
                    learning_rate=self._latest.get("learning_rate"),
                )
            )


def _arguments(config: TrainConfig, folder: Path, evaluates: bool) -> TrainingArguments:
    optim = config.optim
    rhythm = "steps" if optim.eval_every else "epoch"
    keeps_best = bool(optim.patience)
    arguments = TrainingArguments(
        output_dir=str(folder / "checkpoints"),
        per_device_train_batch_size=optim.batch_size,
        per_device_eval_batch_size=optim.batch_size,
        gradient_accumulation_steps=optim.accumulation,
        learning_rate=optim.learning_rate,
        lr_scheduler_type="constant_with_warmup" if optim.schedule == "constant" else optim.schedule,
        warmup_steps=optim.warmup_steps,
        num_train_epochs=optim.epochs,
        max_steps=optim.max_steps or -1,
        weight_decay=optim.weight_decay,
        max_grad_norm=optim.clip,
        eval_strategy=rhythm if evaluates else "no",
        eval_steps=optim.eval_every,
        save_strategy=rhythm if keeps_best else "no",
        save_steps=optim.eval_every or 500,
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=keeps_best,
        metric_for_best_model="eval_loss" if keeps_best else None,
        greater_is_better=False if keeps_best else None,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,
        # Rows of like length share a batch, so that little of it is padding.
        train_sampling_strategy="group_by_length",
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(),
        bf16=resolve_dtype(config.dtype) == torch.bfloat16 and torch.cuda.is_available(),
        disable_tqdm=True,
        report_to="none",
        seed=config.seed,
    )
    # Without a launcher Trainer would spread one process over every GPU it sees, by DataParallel.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _features(example: Example) -> dict[str, list[int]]:
    return {"input_ids": example.input_ids, "labels": example.labels}


def _collated(rows: list[dict[str, list[int]]], pad: int) -> dict[str, torch.Tensor]:
    ids, labels, mask = padded([Example(row["input_ids"], row["labels"]) for row in rows], pad)
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}
