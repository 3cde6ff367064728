"""How far a job is, when it is judged, and when it is over."""

from __future__ import annotations

import math

from training.config import OptimConfig


class Course:
    """Counts one job's optimizer steps against what its settings say, as transformers' Trainer does."""

    def __init__(self, optim: OptimConfig, steps_per_epoch: int, has_held: bool) -> None:
        self.num_steps = optim.max_steps or math.ceil(optim.epochs * steps_per_epoch)
        self.steps_per_epoch = steps_per_epoch
        self.step = 0
        self.best: float | None = None
        self.latest: tuple[int, float] | None = None
        self._rhythm = (optim.eval_every or steps_per_epoch) if has_held else None
        self._patience = optim.patience
        self._worse = 0
        self._stopped = False

    @property
    def keeps_best(self) -> bool:
        """Whether the weights of the best evaluation are what the job leaves."""
        return self._patience is not None

    @property
    def is_due(self) -> bool:
        """Whether the weights as they are now are to be judged, and were not yet."""
        if self._rhythm is None or self.step == 0 or self.is_judged:
            return False
        return self.step % self._rhythm == 0

    @property
    def is_judged(self) -> bool:
        """Whether the latest evaluation is of the weights as they are now."""
        return self.latest is not None and self.latest[0] == self.step

    @property
    def is_over(self) -> bool:
        """By its steps, by early stopping, or because somebody said so."""
        return self._stopped or self.step >= self.num_steps

    def stop(self) -> None:
        """Ends the job after this step."""
        self._stopped = True

    def judged(self, loss: float) -> bool:
        """Notes an evaluation; True if none before was as good."""
        self.latest = (self.step, loss)
        better = self.best is None or loss < self.best
        self.best = loss if better else self.best
        self._worse = 0 if better else self._worse + 1
        self._stopped |= self._patience is not None and self._worse >= self._patience
        return better
