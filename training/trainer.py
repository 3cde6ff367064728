"""The one place where transformers' Trainer is set up: loss, optimizer, rows, checkpoints, evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainerControl

from training.arguments import training_arguments
from training.batches import LengthGrouped, collated, features
from training.callbacks import Checkpointing, Metrics, MovedGuard
from training.checkpoints import checkpoint_root, keep_only, seal
from training.encode import Example
from training.evaluate import held_out_loss
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


class LearnTrainer(Trainer):  # type: ignore[misc]
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
            args=training_arguments(config, checkpoint_root(place), bool(job.held)),
            train_dataset=[features(example) for example in job.train],
            # Only its presence matters to Trainer: `evaluate` reads the examples themselves.
            eval_dataset=[features(example) for example in job.held] or None,
            data_collator=lambda rows: collated(rows, job.pad),
        )
        self.learner, self.job, self.place = learner, job, place
        self._order = LengthGrouped(job.train, config.optim.batch_size, config.seed)
        self._nats = torch.zeros((), device=self.args.device)
        self._pruning = Pruning(learner.model, config.adalora) if learner.method.family == "adalora" else None
        self.remove_callback(PrinterCallback)
        for callback in self._callbacks(stop, report):
            self.add_callback(callback)

    def mean_loss(self) -> float:
        """Nats per loss token, mean of all steps: those before the checkpoint that it went on from too."""
        steps: int = self.state.global_step
        return float(self._nats) / max(steps, 1)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        loss = held_out_loss(self.model, self.job.held, self.job.pad, self.args.eval_batch_size)
        metrics = {"eval_loss": loss}
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

    def _get_train_sampler(self, *_: Any) -> LengthGrouped:
        return self._order

    def _callbacks(self, stop: Stop, report: Report | None) -> Iterator[TrainerCallback]:
        config = self.learner.config
        yield _Epochs(self._order)
        yield Metrics(self.place / METRICS_FILE, report)
        yield MovedGuard(self.learner)
        yield Checkpointing(config.checkpoint_every, stop, self.place)
        if config.optim.patience:
            yield EarlyStoppingCallback(early_stopping_patience=config.optim.patience)
        if self._pruning is not None:
            yield self._pruning
        if config.optim.unfreeze_groups and config.optim.unfreeze_every:
            yield Unfreezing(self.learner.weights, config.optim.unfreeze_groups, config.optim.unfreeze_every)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            written = checkpoint_root(self.place) / f"checkpoint-{self.state.global_step}"
            seal(written)
            best = self.state.best_model_checkpoint
            keep_only(self.place, {written, Path(best)} if best else {written})

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        weights: dict[str, Tensor] = {}
        for name, weight in self.learner.weights.items():
            found = weight if state_dict is None else state_dict[name]
            weights[name] = found.detach().contiguous()
        save_file(weights, folder / _WEIGHTS)
        pruning = self._pruning.state_dict() if self._pruning else None
        torch.save({"nats": self._nats, "pruning": pruning}, folder / _EXTRA)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        checkpoint = Path(resume_from_checkpoint)
        self._load_weights(checkpoint)
        extra = torch.load(checkpoint / _EXTRA, map_location=self.args.device, weights_only=True)
        self._nats = extra["nats"]
        if self._pruning is not None:
            self._pruning.load_state_dict(extra["pruning"])

    def _load_best_model(self) -> None:
        self._load_weights(Path(self.state.best_model_checkpoint))

    @torch.no_grad()
    def _load_weights(self, checkpoint: Path) -> None:
        for name, weight in load_file(checkpoint / _WEIGHTS).items():
            self.learner.weights[name].copy_(weight)


class _Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells the order of the rows which epoch it is, also where a run goes on in the middle of one."""

    def __init__(self, order: LengthGrouped) -> None:
        self._order = order

    def on_epoch_begin(self, args: Any, state: Any, control: TrainerControl, **_: Any) -> None:
        self._order.epoch = int(state.epoch or 0)
