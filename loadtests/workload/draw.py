"""Arrival times, adapters and lengths as arrays, each from its own generator: one can change alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from loadtests.figures import LoadTestError
from loadtests.workload.spec import Arrivals, Lengths, Popularity

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def arrival_times(arrivals: Arrivals, numbers: Generator) -> Floats:
    """[requests], ascending, in [0, duration)."""
    if arrivals.kind == "bursts":
        starts = _renewals(arrivals.rate / arrivals.burst, arrivals.duration, 1.0, numbers)
        return np.repeat(starts, arrivals.burst)
    cv = arrivals.cv if arrivals.kind == "gamma" else 1.0
    return _renewals(arrivals.rate, arrivals.duration, cv, numbers)


def _renewals(rate: float, duration: float, cv: float, numbers: Generator) -> Floats:
    """Gaps are gamma-distributed: shape 1 / cv^2, mean 1 / rate."""
    times = np.empty(0)
    while not len(times) or times[-1] < duration:
        gaps = numbers.gamma(1 / cv**2, cv**2 / rate, size=max(16, int(rate * duration)))
        times = np.concatenate([times, (times[-1] if len(times) else 0.0) + np.cumsum(gaps)])
    return times[times < duration]


def read_trace(file: Path) -> list[dict[str, Any]]:
    """By time, the first at 0. Raises LoadTestError with the line that is wrong."""
    rows = []
    for number, line in enumerate(file.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            rows.append({**row, "at": float(row["at"])})
        except (ValueError, KeyError, TypeError) as error:
            raise LoadTestError(f"{file}, line {number}: no JSON object with a number `at`") from error
    if not rows:
        raise LoadTestError(f"{file} holds no request")
    rows.sort(key=lambda row: row["at"])
    return [{**row, "at": row["at"] - rows[0]["at"]} for row in rows]


def probabilities(popularity: Popularity) -> Floats:
    """[adapters], of the adapters alone: the base's share is not in them."""
    count = popularity.adapters
    ranks = np.arange(1, count + 1, dtype=np.float64)
    if popularity.kind == "uniform":
        return np.full(count, 1 / count)
    if popularity.kind == "one":
        return np.where(ranks == 1, 1.0, 0.0)
    if popularity.kind == "power":
        # floor(count * X) where P(X <= x) = x^alpha: with alpha 1 uniform, below 1 the first ones lead.
        return np.asarray(np.diff((np.arange(count + 1) / count) ** popularity.alpha))
    shares = np.power(ranks, -popularity.alpha, dtype=np.float64)
    return np.asarray(shares / shares.sum())


def draw_ranks(popularity: Popularity, count: int, numbers: Generator) -> Ints:
    """[count]: 0 for the most popular adapter; -1 for the base."""
    if not popularity.adapters:
        return np.full(count, -1)
    ranks = numbers.choice(popularity.adapters, size=count, p=probabilities(popularity))
    return np.where(numbers.random(count) < popularity.base_share, -1, ranks)


def draw_lengths(lengths: Lengths, count: int, numbers: Generator) -> Ints:
    if lengths.kind == "fixed":
        return np.full(count, lengths.tokens)
    if lengths.kind == "uniform":
        return numbers.integers(lengths.low, lengths.high, size=count)
    if lengths.kind == "lognormal":
        drawn = numbers.lognormal(np.log(lengths.tokens), lengths.sigma, size=count)
        return np.clip(np.rint(drawn), lengths.low, lengths.high).astype(np.int64)
    return numbers.choice(_read_lengths(Path(lengths.file)), size=count)


def _read_lengths(file: Path) -> Ints:
    try:
        found = [int(line) for line in file.read_text().split()]
    except ValueError as error:
        raise LoadTestError(f"{file} must hold whole numbers: {error}") from error
    if not found or min(found) < 1:
        raise LoadTestError(f"{file} must hold whole numbers from 1")
    return np.asarray(found)
