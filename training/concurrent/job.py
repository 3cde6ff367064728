"""One adapter in training: its own rows, optimizer, schedule, clip, seed and end."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import get_scheduler

from training.artifact import TrainResult, check_servable, write_story
from training.concurrent.course import Course
from training.concurrent.feed import Portion, portions, steps_per_epoch
from training.concurrent.rows import Rows
from training.concurrent.updates import Pair
from training.concurrent.weights import AdapterWeights
from training.config import TrainConfig
from training.encode import Example
from training.errors import Diverged
from training.evaluation.documents import write_documents
from training.evaluation.exam import split_data
from training.files import METRICS_FILE
from training.methods.guards import check_moved, fingerprints, trainables
from training.progress import Progress


class Job:
    """Knows nothing of the others: what it is told is its losses, what it is asked for is its next rows."""

    def __init__(
        self, name: str, config: TrainConfig, rows: Rows, weights: AdapterWeights, output: Path
    ) -> None:
        """`output` becomes the adapter when the job ends; until then it works in a folder beside it."""
        self.name = name
        self.config = config
        self.weights = weights
        self._output = output
        self._folder = _workplace(output)
        self.held = sorted(rows.held, key=lambda example: len(example.input_ids))
        self.course = Course(config.optim, steps_per_epoch(len(rows.train), config.optim), bool(rows.held))
        self._num_rows = len(rows.train)
        self._portions = portions(rows.train, config.optim, config.seed)
        self._portion: Portion | None = None
        self._before = fingerprints(trainables(weights.model))
        self._optimizer, self._schedule = self._steppers()
        self._began = time.monotonic()
        self._step_loss, self._losses = 0.0, list[float]()
        self._best: Tensor | None = None

    def next_portion(self) -> Portion:
        """The rows of the next pass."""
        self._portion = next(self._portions)
        return self._portion

    def pairs(self) -> dict[str, Pair]:
        """The adapter as it is now."""
        return self.weights.pairs()

    def learned(self, loss: float) -> bool:
        """Told after the pass of `next_portion`; True if a step was taken. Raises `Diverged`."""
        assert self._portion is not None, "a pass begins with next_portion"
        self._step_loss += loss
        if not math.isfinite(loss):
            raise Diverged(f"the loss was {loss} at step {self.course.step + 1}: lower optim.learning_rate")
        if self._portion.closes:
            self._take_step()
        return self._portion.closes

    def judged(self, loss: float) -> None:
        """Told the held-out loss of the weights as they are now, in nats per loss token."""
        if self.course.judged(loss) and self.course.keeps_best:
            self._best = self.weights.flat.detach().clone()
        self._write({"eval_loss": loss})

    def held_portions(self) -> list[Sequence[Example]]:
        """The held-out rows, as many at a time as are trained on."""
        size = self.config.optim.batch_size
        return [self.held[start : start + size] for start in range(0, len(self.held), size)]

    def progress(self) -> Progress:
        """A sign of life."""
        return Progress(
            phase=self.name,
            step=self.course.step,
            num_steps=self.course.num_steps,
            seconds=time.monotonic() - self._began,
            loss=self._losses[-1] if self._losses else None,
            eval_loss=self.course.latest[1] if self.course.latest else None,
            learning_rate=float(self._schedule.get_last_lr()[0]),
        )

    @property
    def is_unjudged(self) -> bool:
        """Whether the weights that the job would leave have no held-out loss yet."""
        return bool(self.held) and self._best is None and not self.course.is_judged

    @torch.no_grad()
    def keep_best(self) -> None:
        """Goes back to the weights of the best evaluation, where the settings say so."""
        if self._best is not None:
            self.weights.flat.copy_(self._best)

    def finish(self, linears: dict[str, tuple[int, int]]) -> TrainResult:
        """Makes the output folder the adapter. Raises `Diverged` or `UnservableAdapter`."""
        model = self.weights.store()
        check_moved(trainables(model), self._before)
        # The vocabulary is never changed here; looking for changes would ask the hub about the base.
        model.save_pretrained(str(self._folder), save_embedding_layers=False)
        checked = check_servable(self._folder, linears)
        result = self._result()
        write_story(self._folder, self.config, result)
        _, held = split_data(self.config)
        write_documents(self._folder, self._output.name, checked, held, {})
        shutil.rmtree(self._output, ignore_errors=True)
        self._folder.rename(self._output)
        return result

    def drop(self) -> None:
        """Leaves nothing behind but what `finish` has made."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _result(self) -> TrainResult:
        latest = self.course.latest[1] if self.course.latest else None
        return TrainResult(
            output=self._output,
            num_steps=self.course.step,
            train_loss=sum(self._losses) / len(self._losses),
            eval_loss=latest if self._best is None else self.course.best,
            num_train_rows=self._num_rows,
            num_eval_rows=len(self.held),
            num_parameters=self.weights.num_parameters,
            seconds=round(time.monotonic() - self._began, 3),
        )

    def _take_step(self) -> None:
        course, rate = self.course, float(self._schedule.get_last_lr()[0])
        norm = self._clipped()
        self._optimizer.step()
        self._schedule.step()
        self.weights.gradient.zero_()
        course.step += 1
        self._losses.append(self._step_loss)
        self._step_loss = 0.0
        if course.step % self.config.log_every == 0:
            recent = self._losses[-self.config.log_every :]
            epoch = course.step / course.steps_per_epoch
            loss = sum(recent) / len(recent)
            self._write({"loss": loss, "grad_norm": norm, "learning_rate": rate, "epoch": epoch})

    @torch.no_grad()
    def _clipped(self) -> float:
        """The gradient's norm before it was clipped; one vector needs little of `clip_grad_norm_`."""
        norm = float(torch.linalg.vector_norm(self.weights.gradient))
        limit = (self.config.optim.clip or math.inf) / (norm + 1e-6)
        if limit < 1:
            self.weights.gradient.mul_(limit)
        return norm

    def _steppers(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        optim, flat = self.config.optim, self.weights.flat
        assert optim.learning_rate is not None, "a config without a rate gets the formula's before it joins"
        optimizer = torch.optim.AdamW(
            [flat], lr=optim.learning_rate, weight_decay=optim.weight_decay, fused=True
        )
        kind = "constant_with_warmup" if optim.schedule == "constant" else optim.schedule
        return optimizer, get_scheduler(kind, optimizer, optim.warmup_steps, self.course.num_steps)

    def _write(self, figures: Mapping[str, float]) -> None:
        line = {"step": self.course.step, "seconds": round(time.monotonic() - self._began, 3), **figures}
        with (self._folder / METRICS_FILE).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def _workplace(output: Path) -> Path:
    folder = output.with_name(f".{output.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
