"""The Trainer of one run by several processes, equal to one process with the same rows a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Sampler
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from training.checkpoints import commit, keep_only, stage, stage_of
from training.distributed.share import Whole, share
from training.distributed.world import ALONE, World
from training.encode import Example
from training.evaluate import by_length, loss_sums


class SharingTrainer(Trainer):  # type: ignore[misc]
    """Shares out rows to train on and rows held out, and writes checkpoints that are whole or not there.

    Processes write a checkpoint together, aside; it gets its name once each of them has written its part.
    """

    place: Path
    world: World = ALONE
    state: TrainerState
    _stage: Path | None = None
    _ops_per_token: float | None = None

    def whole_passes(self, order: Sampler[int]) -> Sampler[int]:
        """`order` for accelerate to deal out; alone, one process takes what there is."""
        return Whole(order, self.args.train_batch_size * self.world.size) if self.world.size > 1 else order

    def held_out_loss(self, held: list[Example], pad: int) -> float:
        """Nats per loss token over all of `held`; every process must ask."""
        mine = share(by_length(held), self.world, pad)
        total, count = self.world.total(*loss_sums(self.model, mine, pad, self.args.eval_batch_size))
        return total / count

    def mean_over_processes(self, value: Tensor) -> Tensor:
        """Every process must ask."""
        (total,) = self.world.total(float(value))
        return value.new_tensor(total / self.world.size)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """As Trainer's, which counts all parameters of the model again at every step."""
        num_tokens = inputs["input_ids"].numel()
        if self._ops_per_token is None:
            self._ops_per_token = super().floating_point_ops(inputs) / num_tokens
        return int(self._ops_per_token * num_tokens)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._stage or self.args.output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._stage = self.world.of_first(stage(self.place) if self.world.is_first else None)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._stage = None
        best = self.state.best_model_checkpoint
        if best:
            # Under the name that it will have.
            self.state.best_model_checkpoint = str(Path(self.args.output_dir) / Path(best).name)
        self.world.wait()
        if self.world.is_first:
            self._commit()
        self.world.wait()

    def _commit(self) -> None:
        written = stage_of(self.place) / f"checkpoint-{self.state.global_step}"
        self.state.save_to_json(str(written / TRAINER_STATE_NAME))
        kept, best = commit(self.place, written), self.state.best_model_checkpoint
        keep_only(self.place, {kept, Path(best)} if best else {kept})
