"""Trains jobs side by side: each pass carries the next rows of every job, and who ends makes room at once.

admit -> pass -> step -> judge -> let go
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from training.artifact import TrainResult
from training.concurrent.base import SharedBase
from training.concurrent.batch import make_batch, num_foretold
from training.concurrent.job import Job
from training.concurrent.offered import check_offered
from training.concurrent.rows import Rows, read
from training.concurrent.weights import AdapterWeights
from training.config import TrainConfig
from training.configfile import check_config
from training.errors import TrainingError
from training.methods.settle import settled
from training.progress import Report
from training.rates import with_rate
from training.workplace import check_output


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: with an adapter in its output folder, or with the error that ended it alone."""

    name: str
    result: TrainResult | None
    error: TrainingError | None = None


class ConcurrentTrainer:
    """One base and whoever is in training on it."""

    def __init__(
        self,
        base: SharedBase,
        tokenizer: PreTrainedTokenizerBase,
        report: Report | None = None,
        at_once: int | None = None,
    ) -> None:
        """At most `at_once` jobs share a pass; the others wait for one to end."""
        self._base = base
        self._tokenizer = tokenizer
        self._pad = int(tokenizer.pad_token_id)
        self._report = report
        self._at_once = at_once
        # Filled by any thread, emptied between passes.
        self._waiting: deque[Job] = deque()
        self.jobs: list[Job] = []

    def add(self, config: TrainConfig, name: str = "") -> Job:
        """A job that joins before the next pass; rows are read here, by whichever thread calls.

        Raises `InvalidConfig` or `InvalidData`.
        """
        config = settled(config)
        check_config(config)
        check_offered(config)
        check_output(config)
        config = with_rate(config)
        return self.join(config, read(config, self._tokenizer), name)

    def join(self, config: TrainConfig, rows: Rows, name: str = "", output: Path | None = None) -> Job:
        """The same with rows that are token ids already; `output` is the folder, if not the config's."""
        weights = AdapterWeights(self._base, config)
        job = Job(name or config.output.name, config, rows, weights, output or config.output)
        self._waiting.append(job)
        return job

    def run(self) -> list[Outcome]:
        """Passes until no job is left, those included that are added meanwhile."""
        ended: list[Outcome] = []
        while self.jobs or self._waiting:
            ended += self.step()
        return ended

    def step(self) -> list[Outcome]:
        """One pass; returns the jobs that ended with it."""
        self._admit()
        ended = self._learn()
        self._judge([job for job in self.jobs if job.course.is_due])
        over = [job for job in self.jobs if job.course.is_over]
        for job in over:
            job.keep_best()
        self._judge([job for job in over if job.is_unjudged])
        return ended + [self._end(job) for job in over]

    def close(self) -> None:
        """Drops every job that has not ended, with what it has written."""
        for job in (*self.jobs, *self._waiting):
            job.drop()
        self.jobs.clear()
        self._waiting.clear()

    def _admit(self) -> None:
        while self._waiting and (self._at_once is None or len(self.jobs) < self._at_once):
            self.jobs.append(self._waiting.popleft())

    def _learn(self) -> list[Outcome]:
        if not self.jobs:
            return []
        portions = [job.next_portion() for job in self.jobs]
        batch = make_batch([portion.rows for portion in portions], self._pad, self._base.device)
        pairs, counts = [job.pairs() for job in self.jobs], [portion.count for portion in portions]
        losses = self._base.learn(batch, pairs, counts)
        return self._told(list(self.jobs), losses)

    def _told(self, jobs: Sequence[Job], losses: Sequence[float]) -> list[Outcome]:
        """Tells each job its loss; one that cannot go on ends, and the others never hear of it."""
        ended = []
        for job, loss in zip(jobs, losses, strict=True):
            try:
                if job.learned(loss) and self._report:
                    self._report(job.progress())
            except TrainingError as error:
                ended.append(self._leave(job, None, error))
        return ended

    def _judge(self, jobs: Sequence[Job]) -> None:
        """The held-out loss of each, all in the same passes."""
        left, sums = {job: job.held_portions() for job in jobs}, dict.fromkeys(jobs, 0.0)
        while left:
            batch = make_batch([rest.pop(0) for rest in left.values()], self._pad, self._base.device)
            losses = self._base.judge(batch, [job.pairs() for job in left])
            for job, loss in zip(left, losses, strict=True):
                sums[job] += loss
            left = {job: rest for job, rest in left.items() if rest}
        for job, total in sums.items():
            job.judged(total / num_foretold(job.held))

    def _end(self, job: Job) -> Outcome:
        try:
            return self._leave(job, job.finish(self._base.linears))
        except TrainingError as error:
            return self._leave(job, None, error)

    def _leave(self, job: Job, result: TrainResult | None, error: TrainingError | None = None) -> Outcome:
        self.jobs.remove(job)
        job.drop()
        return Outcome(job.name, result, error)
