"""Works that are compared, measured in turns: what else the machine does falls on all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from loadtests.floors import synchronize


@dataclass(frozen=True, slots=True)
class Work:
    """repeats: of `once` in a round, so that works that take unlike long are measured for as long."""

    once: Callable[[], object]
    repeats: int


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a repeat, round by round: by the clock, and of the processors that this process had."""

    clock: list[float]
    processor: list[float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Of a figure's rounds."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


def in_turns(works: Sequence[Work], device: torch.device, rounds: int) -> list[Times]:
    """Every work once a round, after one that does not count."""
    times = [Times([], []) for _ in works]
    for number in range(rounds + 1):
        for work, taken in zip(works, times, strict=True):
            clock, processor = _seconds(work, device)
            if number:
                taken.clock.append(clock)
                taken.processor.append(processor)
    return times


def ratios(slow: Sequence[float], fast: Sequence[float], factor: float) -> Spread:
    """factor * slow / fast, each round's by its own two."""
    found = [factor * one / other for one, other in zip(slow, fast, strict=True)]
    return Spread(statistics.median(found), min(found), max(found))


def _seconds(work: Work, device: torch.device) -> tuple[float, float]:
    synchronize(device)
    clock, processor = time.perf_counter(), time.process_time()
    for _ in range(work.repeats):
        work.once()
    synchronize(device)
    return (time.perf_counter() - clock) / work.repeats, (time.process_time() - processor) / work.repeats
