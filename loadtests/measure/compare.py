"""Two runs of the same load, and whether they differ by more than chance.

Neighbouring requests share a queue, so they are no independent samples: whole stretches of time are drawn
anew, the same ones of both runs. A figure has changed if 99 of 100 such draws say so, and it is worth a word.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from loadtests.drive.records import Record, Run
from loadtests.figures import LoadTestError

BLOCKS = 20
DRAWS = 1000
# Ten figures are looked at in one comparison, and chance must not find one of them.
CONFIDENCE = 0.99
# Smaller changes are no news.
LEAST_CHANGE = 0.03

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
# Of the blocks of one run, each taken as often as it was drawn: times [BLOCKS] -> the figure.
Figure = Callable[[Counts], float]


@dataclass(frozen=True)
class Change:
    """of: the second run's figure over the first's; low, high: where it lies in 99 of 100 draws."""

    figure: str
    before: float
    after: float
    low: float
    high: float
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        return self.after / self.before if self.before else math.nan

    @property
    def verdict(self) -> str:
        """`better`, `worse`, or `same` where chance explains it."""
        is_real = self.low > 1 or self.high < 1
        if not is_real or not abs(self.ratio - 1) >= LEAST_CHANGE:
            return "same"
        return "better" if (self.ratio > 1) is self.more_is_better else "worse"


def compare(before: Run, after: Run) -> list[Change]:
    """Raises LoadTestError for runs of other loads: what is asked for must be the same."""
    asked = [[(r.tenant, r.adapter, r.asked_tokens) for r in run.records] for run in (before, after)]
    if asked[0] != asked[1]:
        raise LoadTestError(
            "these runs are of other workloads or seeds; only answers to the same load compare"
        )
    changes = [
        _change(f"{name} {quantile}", before, after, value, quantile)
        for name, value in _TIMES.items()
        for quantile in (0.5, 0.9, 0.99)
    ]
    return [change for change in changes if not math.isnan(change.ratio)] + [_answered(before, after)]


_TIMES: dict[str, Callable[[Record], float]] = {
    "first token": lambda record: record.first_token,
    "per token": lambda record: record.per_token,
    "whole answer": lambda record: record.latency,
}


def _change(title: str, before: Run, after: Run, value: Callable[[Record], float], quantile: float) -> Change:
    name = title.replace(str(quantile), f"p{quantile * 100:g}")
    blocks = _blocks(before, value), _blocks(after, value)
    if min(sum(map(len, each)) for each in blocks) * (1 - quantile) < 1 - 1e-9:
        return Change(name, math.nan, math.nan, math.nan, math.nan)

    earlier, later = (_quantile_of(each, quantile) for each in blocks)
    return _between(name, earlier, later)


def _answered(before: Run, after: Run) -> Change:
    """Part of the requests that were answered."""
    earlier, later = (
        _mean_of(_blocks(run, lambda record: float(record.is_ok), only_ok=False)) for run in (before, after)
    )
    return _between("part answered", earlier, later, more_is_better=True)


def _between(name: str, before: Figure, after: Figure, more_is_better: bool = False) -> Change:
    once = np.ones(BLOCKS, dtype=np.int64)
    return Change(name, before(once), after(once), *_interval(before, after), more_is_better)


def _quantile_of(blocks: list[Floats], quantile: float) -> Figure:
    """As np.quantile finds it; sorted once for all draws."""
    values = np.concatenate(blocks)
    order = np.argsort(values)
    values, block = values[order], np.repeat(np.arange(BLOCKS), [*map(len, blocks)])[order]

    def figure(times: Counts) -> float:
        reached = np.cumsum(times[block])
        if not len(reached) or not reached[-1]:
            return math.nan
        at = quantile * (reached[-1] - 1)
        low, high = values[np.searchsorted(reached, [math.floor(at), math.ceil(at)], side="right")]
        return float(low + (high - low) * (at % 1))

    return figure


def _mean_of(blocks: list[Floats]) -> Figure:
    sums, counts = np.array([each.sum() for each in blocks]), np.array([*map(len, blocks)])
    return lambda times: float(times @ sums / (times @ counts))


def _blocks(run: Run, value: Callable[[Record], float], only_ok: bool = True) -> list[Floats]:
    """The run's values, by the stretch of time in which the request was due."""
    found: list[list[float]] = [[] for _ in range(BLOCKS)]
    for record in run.records:
        if (record.is_ok or not only_ok) and not math.isnan(number := value(record)):
            found[min(BLOCKS - 1, int(BLOCKS * record.scheduled / run.duration))].append(number)
    return [np.asarray(each) for each in found]


def _interval(before: Figure, after: Figure) -> tuple[float, float]:
    numbers = np.random.default_rng(0)
    ratios = []
    for _ in range(DRAWS):
        times = np.bincount(numbers.integers(0, BLOCKS, BLOCKS), minlength=BLOCKS)
        below = before(times)
        ratios.append(after(times) / below if below else math.nan)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(ratios, [tail, 1 - tail])
    return float(low), float(high)
