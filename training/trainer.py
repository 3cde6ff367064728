"""The one place where transformers' Trainer is set up: loss, optimizer, rows, checkpoints, evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Sampler
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainerControl

from training.arguments import training_arguments
from training.batches import LengthGrouped, collated, features
from training.callbacks import Checkpointing, Metrics, MovedGuard
from training.checkpoints import checkpoint_root
from training.distributed.gather import put, whole
from training.distributed.share import Rows, blank
from training.distributed.trainer import SharingTrainer
from training.encode import Example
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

_WEIGHTS = "weights.safetensors"
_EXTRA = "extra.pt"


@dataclass(frozen=True, slots=True)
class Job:
    """The rows to train on and those held out, the id to pad with, and what holds the weights, if it does."""

    train: list[Example]
    held: list[Example]
    pad: int
    tether: Tether | None = None


class LearnTrainer(SharingTrainer):
    """Trains a learner on a job in `place`, which gets its metrics and checkpoints.

    Evaluates as nats per loss token over the whole held-out set, whatever the batches. A checkpoint holds the
    weights that learn as they are, whatever PEFT would make of them on saving, so that going on is exact.
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
        self.learner, self.job, self.place, self.world = learner, job, place, learner.world
        rows = config.optim.batch_size * self.world.size
        self._order = LengthGrouped(job.train, rows, config.seed)
        self._nats = torch.zeros((), device=self.args.device)
        self._pruning = Pruning(learner.model, config.adalora) if learner.method.family == "adalora" else None
        self.remove_callback(PrinterCallback)
        for callback in self._callbacks(stop, report):
            self.add_callback(callback)

    def mean_loss(self) -> float:
        """Nats per loss token, mean of all steps: those before the checkpoint that it went on from too."""
        steps: int = self.state.global_step
        return float(self.mean_over_processes(self._nats)) / max(steps, 1)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        metrics = {"eval_loss": self.held_out_loss(self.job.held, self.job.pad)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        loss: Tensor = super().training_step(*arguments, **options)
        self._nats += loss
        return loss

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
        yield _Epochs(self._order)
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

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        weights = whole(self.learner.weights)
        folder = Path(output_dir or self.args.output_dir)
        # Every process reads its own share of what comes next into it.
        folder.mkdir(parents=True, exist_ok=True)
        nats = self.mean_over_processes(self._nats)
        if not self.args.should_save:
            return
        save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / _WEIGHTS)
        pruning = self._pruning.state_dict() if self._pruning else None
        torch.save({"nats": nats, "pruning": pruning}, folder / _EXTRA)

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> Any:
        if resume_from_checkpoint is not None:
            self._load_extra(Path(resume_from_checkpoint))
        return super().train(resume_from_checkpoint, **options)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_weights(Path(resume_from_checkpoint))

    def _load_extra(self, checkpoint: Path) -> None:
        # A CPU among CPUs that share has a number, by which nothing can be loaded.
        device = torch.device(self.args.device.type)
        extra = torch.load(checkpoint / _EXTRA, map_location=device, weights_only=True)
        self._nats = extra["nats"]
        if self._pruning is not None:
            self._pruning.load_state_dict(extra["pruning"])

    def _load_best_model(self) -> None:
        self._load_weights(Path(self.state.best_model_checkpoint))

    def _load_weights(self, checkpoint: Path) -> None:
        weights = self.learner.weights
        for name, weight in load_file(checkpoint / _WEIGHTS).items():
            put(weights[name], weight)


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells the order of the rows which epoch it is, also where a run goes on in the middle of one."""

    def __init__(self, order: LengthGrouped) -> None:
        self._order = order

    def on_epoch_begin(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        self._order.epoch = int(state.epoch or 0)
