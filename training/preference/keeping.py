"""TRL's trainers with checkpoints that a run goes on from exactly, and without what TRL does besides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import trl
from trl.trainer.utils import RepeatSampler

from training.keeping import KeepingTrainer
from training.preference.config import Task


def keeping(task: Task) -> type[Any]:
    """The trainer of `task`; `keep` must be called once it is made."""
    kind = _Sampling if task.samples else _Quiet
    return type(task.trainer, (kind, getattr(trl, task.trainer)), {})


class _Quiet(KeepingTrainer):
    """Writes no card into checkpoints, and tells nobody of the run."""

    def create_model_card(self, *_: Any, **__: Any) -> None: ...

    def _send_telemetry(self) -> None: ...


class _Sampling(_Quiet):
    """Takes prompts in an order that the seed and the epoch decide alone."""

    def _get_train_sampler(self, *arguments: Any) -> RepeatSampler:
        made = super()._get_train_sampler(*arguments)
        return _ByEpoch(
            made.data_source,
            made.mini_repeat_count,
            made.batch_size,
            made.repeat_count,
            made.shuffle,
            made.seed,
        )


class _ByEpoch(RepeatSampler):  # type: ignore[misc]
    """TRL's own draws every order after the one before, which a run that goes on has not drawn."""

    _epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """As accelerate tells samplers."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed((self.seed or 0) + self._epoch)
        return super().__iter__()  # type: ignore[no-any-return, no-untyped-call]
