"""Runs to be compared, on the same batches: adapters many at once, full fine-tuning one by one."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from loadtests.claims.scale import Scale
from training.concurrent.base import SharedBase
from training.concurrent.feed import portions
from training.concurrent.job import Job
from training.concurrent.rows import Rows
from training.concurrent.trainer import ConcurrentTrainer
from training.config import ALL_LINEAR, LoraSection, OptimConfig, TrainConfig
from training.encode import Example
from training.evaluate import held_out_loss, padded
from training.model import Model


@dataclass(frozen=True, slots=True)
class Subject:
    """What is trained. rank: 0 for every weight of the base."""

    name: str
    rank: int
    targets: tuple[str, ...] = (ALL_LINEAR,)


@dataclass(frozen=True, slots=True)
class Trial:
    """One run. loss: nats a held-out token; None where the run diverged."""

    subject: str
    rank: int
    rate: float
    batch: int
    seed: int
    loss: float | None


@dataclass(frozen=True, slots=True)
class Run:
    """A run that is to be done."""

    subject: Subject
    rate: float
    batch: int
    seed: int

    def ended(self, loss: float) -> Trial:
        subject, told = self.subject, loss if math.isfinite(loss) else None
        return Trial(subject.name, subject.rank, self.rate, self.batch, self.seed, told)


@dataclass(frozen=True, slots=True)
class Bench:
    """The base that all runs start from, each seed's rows, and where the trainer keeps its files."""

    scale: Scale
    base: Model
    rows: Sequence[Rows]
    tokenizer: PreTrainedTokenizerBase
    folder: Path

    def trials(self, runs: Sequence[Run]) -> Iterator[Trial]:
        """Grouped by batch, as runs of one trainer take the same number of steps."""
        adapters = sorted((run for run in runs if run.subject.rank), key=lambda run: run.batch)
        for _, group in groupby(adapters, key=lambda run: run.batch):
            alike = list(group)
            for start in range(0, len(alike), self.scale.at_once):
                yield from self._together(alike[start : start + self.scale.at_once])
        for run in runs:
            if not run.subject.rank:
                yield run.ended(self._full(run))

    def _together(self, runs: Sequence[Run]) -> list[Trial]:
        trainer = ConcurrentTrainer(SharedBase(copy.deepcopy(self.base), together=True), self.tokenizer)
        jobs = [self._join(trainer, run, number) for number, run in enumerate(runs)]
        for _ in range(self._steps(runs[0])):
            trainer.step()
        trainer.close()
        return [run.ended(_judged(job)) for run, job in zip(runs, jobs, strict=True)]

    def _join(self, trainer: ConcurrentTrainer, run: Run, number: int) -> Job:
        lora = LoraSection(rank=run.subject.rank, targets=run.subject.targets)
        config = TrainConfig(
            base="claims",
            output=self.folder / str(number),
            lora=lora,
            optim=self._optim(run),
            seed=run.seed,
            log_every=1 << 30,
        )
        return trainer.join(config, self.rows[run.seed])

    def _full(self, run: Run) -> float:
        model, optim = copy.deepcopy(self.base).requires_grad_(True).train(), self._optim(run)
        rows = self.rows[run.seed]
        optimizer = torch.optim.AdamW(model.parameters(), lr=run.rate, weight_decay=0.0)
        for _, portion in zip(range(self._steps(run)), portions(rows.train, optim, run.seed), strict=False):
            _loss(model, portion.rows).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
            optimizer.step()
            optimizer.zero_grad()
        return held_out_loss(model.eval(), rows.held, int(self.tokenizer.pad_token_id))

    def _steps(self, run: Run) -> int:
        return self.scale.num_rows // run.batch

    def _optim(self, run: Run) -> OptimConfig:
        """A constant rate, as in the experiments that the claims come from; judged after the last step.

        The one step more is never taken: a job that ends would be written as an adapter.
        """
        steps = self._steps(run)
        return OptimConfig(
            learning_rate=run.rate,
            schedule="constant",
            batch_size=run.batch,
            max_steps=steps + 1,
            eval_every=steps,
        )


def _judged(job: Job) -> float:
    """Infinite for a job that diverged before it was judged."""
    return math.inf if job.course.latest is None else job.course.latest[1]


def _loss(model: Model, examples: Sequence[Example]) -> torch.Tensor:
    ids, labels, mask = (part.to(model.device) for part in padded(examples, 0))
    loss: torch.Tensor = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
    return loss
