"""The one place where transformers' Trainer is set up: loss, optimizer, rows, evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from training.arguments import training_arguments
from training.batches import LengthGrouped, collated, features
from training.callbacks import Checkpointing, Epochs, Metrics, MovedGuard
from training.checkpoints import checkpoint_root
from training.distributed.share import Rows, blank
from training.distributed.trainer import SharingTrainer
from training.encode import Example
from training.evaluation.exam import Exam
from training.evaluation.trackers import tracker_callbacks
from training.fast.head import takes_loss_rows
from training.files import METRICS_FILE
from training.methods.adalora import Pruning
from training.methods.ewc import Tether
from training.methods.guards import check_optimized
from training.methods.learner import Learner
from training.methods.optimizers import loraplus
from training.methods.unfreeze import Unfreezing
from training.progress import Report
from training.stopping import Stop


@dataclass(frozen=True, slots=True)
class Job:
    """The rows to train on and those held out, the id to pad with, and what holds the weights, if it does.

    `exam` is what this process asks the model, if it does.
    """

    train: list[Example]
    held: list[Example]
    pad: int
    tether: Tether | None = None
    exam: Exam | None = None


class LearnTrainer(SharingTrainer):
    """Trains a learner on a job in `place`, which gets its metrics and checkpoints.

    Losses are nats per loss token; evaluates over the whole held-out set, whatever the batches.
    """

    control: TrainerControl
    optimizer: torch.optim.Optimizer | None

    def __init__(self, learner: Learner, job: Job, place: Path, stop: Stop, report: Report | None) -> None:
        config = learner.config
        super().__init__(
            model=learner.model,
            args=training_arguments(config, checkpoint_root(place), bool(job.held), learner.world),
            train_dataset=Rows([features(example) for example in job.train], features(blank(job.pad))),
            # Only its presence matters to Trainer: `evaluate` reads the examples themselves.
            eval_dataset=[features(example) for example in job.held] or None,
            data_collator=partial(collated, pad=job.pad, fast=takes_loss_rows(learner.model)),
        )
        self.job = job
        self.keep(learner, place)
        rows = config.optim.batch_size * learner.world.size
        self._order = LengthGrouped(job.train, rows, config.seed)
        self._pruning = Pruning(learner.model, config.adalora) if learner.method.family == "adalora" else None
        self._before = _Before(job.exam)
        self.remove_callback(PrinterCallback)
        for callback in self._callbacks(stop, report):
            self.add_callback(callback)

    @property
    def before(self) -> dict[str, float]:
        """What the exam has found before the first step."""
        return self._before.found

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        metrics = {"eval_loss": self.held_out_loss(self.job.held, self.job.pad)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        loss = super().compute_loss(*arguments, **options)
        if self.job.tether is None or not self.model.training:
            return loss
        # A step gathers several passes and is held once.
        return loss + self.job.tether.penalty() / self.current_gradient_accumulation_steps

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        ratio = self.learner.config.optim.lora_plus_ratio
        if ratio is not None and self.optimizer is None:
            self.optimizer = loraplus(self, model or self.model, ratio)
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        check_optimized(optimizer, self.learner.weights)
        return optimizer

    def _get_train_sampler(self, *_: Any) -> Sampler[int]:
        return self.whole_passes(self._order)

    def _callbacks(self, stop: Stop, report: Report | None) -> Iterator[TrainerCallback]:
        config = self.learner.config
        yield Epochs(self._order)
        yield self._before
        yield Metrics(self.place / METRICS_FILE, report)
        yield from tracker_callbacks(config.evaluation, self.place)
        yield MovedGuard(self.learner)
        yield Checkpointing(config.checkpoint_every, stop, self.place)
        if config.optim.patience:
            yield EarlyStoppingCallback(early_stopping_patience=config.optim.patience)
        if self._pruning is not None:
            yield self._pruning
        if config.optim.unfreeze_groups and config.optim.unfreeze_every:
            yield Unfreezing(self.learner.weights, config.optim.unfreeze_groups, config.optim.unfreeze_every)

    def extra(self) -> dict[str, Any]:
        pruning = self._pruning.state_dict() if self._pruning else None
        return super().extra() | {"pruning": pruning, "before": self._before.found}

    def take_extra(self, extra: dict[str, Any]) -> None:
        super().take_extra(extra)
        self._before.found = extra["before"]
        if self._pruning is not None:
            self._pruning.load_state_dict(extra["pruning"])


class _Before(TrainerCallback):  # type: ignore[misc]
    """Asks the exam before the first step, of the model as it is laid out for training."""

    def __init__(self, exam: Exam | None) -> None:
        self._exam = exam
        self.found: dict[str, float] = {}

    def on_train_begin(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any, **_: Any
    ) -> None:
        if self._exam is not None and state.global_step == 0:
            self.found = self._exam.before(model)
