"""Trains jobs side by side: each pass carries the next rows of every job, and who ends makes room at once.

admit -> pass -> step -> judge -> let go
"""

from __future__ import annotations

import shutil
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
from training.errors import InvalidConfig, TrainingError
from training.progress import Report


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: with an adapter in its output folder, or with the error that ended it alone."""

    name: str
    result: TrainResult | None
    error: TrainingError | None = None


class ConcurrentTrainer:
    """One base and whoever is in training on it."""

    def __init__(
        self, base: SharedBase, tokenizer: PreTrainedTokenizerBase, report: Report | None = None
    ) -> None:
        self._base = base
        self._tokenizer = tokenizer
        self._pad = int(tokenizer.pad_token_id)
        self._report = report
        # Filled by any thread, emptied between passes.
        self._waiting: deque[Job] = deque()
        self.jobs: list[Job] = []

    def add(self, config: TrainConfig, name: str = "") -> Job:
        """A job that joins before the next pass; rows are read here, by whichever thread calls.

        Raises `InvalidConfig` or `InvalidData`.
        """
        check_config(config)
        check_offered(config)
        _check_output(config)
        return self.join(config, read(config, self._tokenizer), name)

    def join(self, config: TrainConfig, rows: Rows, name: str = "") -> Job:
        """The same with rows that are token ids already."""
        weights = AdapterWeights(self._base, config)
        job = Job(name or config.output.name, config, rows, weights, _workplace(config.output))
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
            shutil.rmtree(job.folder, ignore_errors=True)
        self.jobs.clear()
        self._waiting.clear()

    def _admit(self) -> None:
        while self._waiting:
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
            result = job.finish(self._base.linears)
        except TrainingError as error:
            return self._leave(job, None, error)
        shutil.rmtree(job.config.output, ignore_errors=True)
        job.folder.rename(job.config.output)
        return self._leave(job, result)

    def _leave(self, job: Job, result: TrainResult | None, error: TrainingError | None = None) -> Outcome:
        self.jobs.remove(job)
        shutil.rmtree(job.folder, ignore_errors=True)
        return Outcome(job.name, result, error)


def _check_output(config: TrainConfig) -> None:
    output = config.output
    if output.exists() and not output.is_dir():
        raise InvalidConfig([f"output: {output} is a file; name a folder"])
    if output.is_dir() and any(output.iterdir()) and not config.overwrite:
        raise InvalidConfig([f"output: {output} is not empty; name another folder or set overwrite = true"])


def _workplace(output: Path) -> Path:
    """A folder beside `output` to work in."""
    folder = output.with_name(f".{output.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
