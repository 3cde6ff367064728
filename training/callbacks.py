"""What a run does besides learning: its lines of metrics, its guards, its checkpoints."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.errors import Diverged, Interrupted
from training.methods.learner import Learner
from training.progress import Progress, Report
from training.stopping import Stop

# By then warm-up has given the learning rate a value in any schedule.
_MOVED_BY = 3


class Epochs(TrainerCallback):  # type: ignore[misc]
    """Tells the order of the rows which epoch it is, also where a run goes on in the middle of one."""

    def __init__(self, order: Any) -> None:
        """`order` gets its attribute `epoch` set."""
        self._order = order

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._order.epoch = int(state.epoch or 0)


class Metrics(TrainerCallback):  # type: ignore[misc]
    """One JSON line per log, a sign of life per step, and a halt when the loss is no number.

    A loss of 0 at the start is a halt too, unless it `may_be_zero`.
    """

    def __init__(self, path: Path, report: Report | None, *, may_be_zero: bool = False) -> None:
        self._path = path
        self._may_be_zero = may_be_zero
        self._report = report
        self._began = time.monotonic()
        self._latest: dict[str, float] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """A run that goes on drops the lines behind its checkpoint and counts its seconds on."""
        if state.is_world_process_zero and self._path.exists():
            lines = [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()]
            kept = [line for line in lines if line["step"] <= state.global_step]
            self._began -= kept[-1]["seconds"] if kept else 0.0
            text = "".join(json.dumps(line) + "\n" for line in kept)
            self._path.write_text(text, encoding="utf-8")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        **_: Any,
    ) -> None:
        self._check_loss(logs, state)
        self._latest |= logs
        if state.is_world_process_zero:
            line = {"step": state.global_step, "seconds": round(time.monotonic() - self._began, 3)} | logs
            with self._path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(line) + "\n")

    def _check_loss(self, logs: dict[str, float], state: TrainerState) -> None:
        loss = logs.get("loss", logs.get("train_loss", math.nan if not logs else 1.0))
        if not math.isfinite(loss):
            raise Diverged(f"the loss was {loss} at step {state.global_step}: lower optim.learning_rate")
        if loss == 0 and "loss" not in self._latest and not self._may_be_zero:
            raise Diverged(
                "the loss is exactly 0 from the start: no token is trained on, or the base knows all answers"
            )

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


class MovedGuard(TrainerCallback):  # type: ignore[misc]
    """Stops a run early in which nothing learns."""

    def __init__(self, learner: Learner) -> None:
        self._learner = learner

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if state.global_step == max(_MOVED_BY, args.warmup_steps + 1):
            self._learner.check_moved()


class Checkpointing(TrainerCallback):  # type: ignore[misc]
    """Asks for a checkpoint every so many steps, and for the last one when the run is to stop.

    The last step of an epoch waits for what the epoch's end still does, such as evaluating: a checkpoint
    before that would have it left out for ever.
    """

    def __init__(self, every: int | None, stop: Stop, place: Path) -> None:
        self._every = every
        self._stop = stop
        self._place = place
        self._is_stopping = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._is_stopping = self._stop.is_asked()
        if not float(state.epoch or 0).is_integer():
            self._ask(state, control)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if float(state.epoch or 0).is_integer():
            self._ask(state, control)

    def _ask(self, state: TrainerState, control: TrainerControl) -> None:
        is_due = self._every is not None and state.global_step % self._every == 0
        # A run that ends with this step is better finished than stopped.
        if (is_due or self._is_stopping) and not control.should_training_stop:
            control.should_save = True
            control.should_log |= self._is_stopping

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self._is_stopping and not control.should_training_stop:
            raise Interrupted(
                f"stopped by SIGTERM after step {state.global_step} of {state.max_steps}: {self._place} has "
                "a checkpoint, and the same command goes on from there"
            )
