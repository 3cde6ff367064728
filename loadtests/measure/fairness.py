"""Whether tenants got what they are owed while more was asked than served.

What is owed: the tokens served while requests were due, shared out by weight; what a tenant did not ask for
goes to the others (max-min fairness). Without a backlog everybody gets what they asked, and all is fair.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from loadtests.drive.records import Run


@dataclass(frozen=True)
class Fairness:
    """Tokens of each tenant while requests were due. jain: 1 is fair, 1 / tenants is the worst."""

    asked: Mapping[str, int]
    served: Mapping[str, int]
    owed: Mapping[str, float]
    deviation: float
    jain: float


def fairness(run: Run) -> Fairness:
    """deviation: the furthest that a tenant's part of all served tokens is from what it is owed, 0 to 1."""
    asked: dict[str, int] = {}
    served: dict[str, int] = {}
    for record in run.records:
        asked[record.tenant] = asked.get(record.tenant, 0) + record.asked_tokens
        in_time = sum(n for at, n in zip(record.times, record.counts, strict=True) if at < run.duration)
        served[record.tenant] = served.get(record.tenant, 0) + in_time
    owed = share_out(sum(served.values()), asked, run.weights)
    total = sum(served.values())
    deviation = max((abs(served[t] - owed[t]) / total for t in asked), default=0.0) if total else math.nan
    return Fairness(asked, served, owed, deviation, _jain([served[t] / owed[t] for t in asked if owed[t]]))


def share_out(total: float, asked: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
    """Each what it asked if that is less than its part by weight; the rest again among the others."""
    owed: dict[str, float] = {}
    left, open_ones = float(total), dict(asked)
    while open_ones:
        whole = sum(weights.get(t, 1.0) for t in open_ones)
        parts = {t: left * weights.get(t, 1.0) / whole for t in open_ones}
        content = [t for t in open_ones if open_ones[t] <= parts[t]]
        if not content:
            return owed | parts
        for tenant in content:
            owed[tenant] = float(open_ones.pop(tenant))
            left -= owed[tenant]
    return owed


def _jain(parts: list[float]) -> float:
    squares = sum(part * part for part in parts)
    return sum(parts) ** 2 / (len(parts) * squares) if squares else math.nan
