"""Checkpoints of any trainer of transformers: whole or not there, and exact to go on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from training.checkpoints import commit, keep_only, stage, stage_of
from training.distributed.gather import put, whole
from training.methods.learner import Learner

_WEIGHTS = "weights.safetensors"
_EXTRA = "extra.pt"


class KeepingTrainer(Trainer):  # type: ignore[misc]
    """Writes the checkpoints of a learner's run in `place`, and keeps the sum of its losses over them.

    A checkpoint holds the weights that learn as they are, whatever PEFT would make of them on saving, so that
    going on is exact. Processes write it together, aside; it gets its name once each has written its part.
    """

    learner: Learner
    place: Path
    state: TrainerState
    _losses: Tensor
    _stage: Path | None = None

    def keep(self, learner: Learner, place: Path) -> None:
        """To be called once the trainer is made, before it trains."""
        self.learner, self.place = learner, place
        self._losses = torch.zeros((), device=self.args.device)

    def mean_loss(self) -> float:
        """Mean of all steps: those before the checkpoint that it went on from too."""
        steps: int = self.state.global_step
        return float(self.mean_over_processes(self._losses)) / max(steps, 1)

    def mean_over_processes(self, value: Tensor) -> Tensor:
        """Every process must ask."""
        world = self.learner.world
        (total,) = world.total(float(value))
        return value.new_tensor(total / world.size)

    def extra(self) -> dict[str, Any]:
        """What a run goes on from beside weights, optimizer and random numbers; every process must ask."""
        return {"losses": self.mean_over_processes(self._losses)}

    def take_extra(self, extra: dict[str, Any]) -> None:
        """Takes `extra`'s answer back."""
        self._losses = extra["losses"]

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        loss: Tensor = super().training_step(*arguments, **options)
        self._losses += loss
        return loss

    def train(self, resume_from_checkpoint: str | None = None, **options: Any) -> Any:
        if resume_from_checkpoint is not None:
            # A CPU among CPUs that share has a number, by which nothing can be loaded.
            device = torch.device(self.args.device.type)
            path = Path(resume_from_checkpoint) / _EXTRA
            self.take_extra(torch.load(path, map_location=device, weights_only=True))
        return super().train(resume_from_checkpoint, **options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        weights, extra = whole(self.learner.weights), self.extra()
        folder = Path(output_dir or self.args.output_dir)
        # Every process reads its own share of what comes next into it.
        folder.mkdir(parents=True, exist_ok=True)
        if self.args.should_save:
            save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / _WEIGHTS)
            torch.save(extra, folder / _EXTRA)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load_weights(Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self._load_weights(Path(str(self.state.best_model_checkpoint)))

    def _load_weights(self, checkpoint: Path) -> None:
        weights = self.learner.weights
        for name, weight in load_file(checkpoint / _WEIGHTS).items():
            put(weights[name], weight)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._stage or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        world = self.learner.world
        self._stage = world.of_first(stage(self.place) if world.is_first else None)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._stage = None
        best = self.state.best_model_checkpoint
        if best:
            # Under the name that it will have.
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / Path(best).name)
        world.wait()
        if world.is_first:
            self._commit()
        world.wait()

    def _commit(self) -> None:
        written = stage_of(self.place) / f"checkpoint-{self.state.global_step}"
        self.state.save_to_json(str(written / TRAINER_STATE_NAME))
        kept, best = commit(self.place, written), self.state.best_model_checkpoint
        keep_only(self.place, {kept, Path(best)} if best else {kept})
