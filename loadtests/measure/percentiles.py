"""Percentiles that say nothing where too few samples stand behind them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

QUANTILES = (0.5, 0.9, 0.99, 0.999)


@dataclass(frozen=True)
class Spread:
    """Of `count` samples, in their unit. nan: the percentile lies beyond the last sample but one."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    p999: float
    largest: float

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64]) -> Self:
        """Samples that are no number (nothing came) are left out."""
        found = np.asarray(values, dtype=np.float64)
        found = found[~np.isnan(found)]
        if not len(found):
            return cls(0, *[math.nan] * 6)
        p50, p90, p99, p999 = (percentile(found, quantile) for quantile in QUANTILES)
        return cls(len(found), float(found.mean()), p50, p90, p99, p999, float(found.max()))


def percentile(values: NDArray[np.float64], quantile: float) -> float:
    """nan unless at least one sample is expected beyond it: p99 asks for 100, p99.9 for 1000."""
    if len(values) * (1 - quantile) < 1 - 1e-9:
        return math.nan
    return float(np.quantile(values, quantile))
