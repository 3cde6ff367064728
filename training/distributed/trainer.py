"""The Trainer of one run by several processes, equal to one process with the same rows a step."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Sampler

from training.distributed.share import Whole, share
from training.encode import Example
from training.evaluate import by_length, loss_sums
from training.keeping import KeepingTrainer


class SharingTrainer(KeepingTrainer):
    """Shares out rows to train on and rows held out."""

    _ops_per_token: float | None = None

    def whole_passes(self, order: Sampler[int]) -> Sampler[int]:
        """`order` for accelerate to deal out; alone, one process takes what there is."""
        size = self.learner.world.size
        return Whole(order, self.args.train_batch_size * size) if size > 1 else order

    def held_out_loss(self, held: list[Example], pad: int) -> float:
        """Nats per loss token over all of `held`; every process must ask."""
        world = self.learner.world
        mine = share(by_length(held), world, pad)
        total, count = world.total(*loss_sums(self.model, mine, pad, self.args.eval_batch_size))
        return total / count

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """As Trainer's, which counts all parameters of the model again at every step."""
        num_tokens = inputs["input_ids"].numel()
        if self._ops_per_token is None:
            self._ops_per_token = super().floating_point_ops(inputs) / num_tokens
        return int(self._ops_per_token * num_tokens)
