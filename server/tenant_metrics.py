"""What tenants use, for a scrape whose size has a bound: the busiest by name, all others together.

No line ever falls: a tenant that is named begins at 0, and what it used before stays with the others.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

# No tenant can be called so.
OTHERS = "_other"
# Tenants that are counted one by one; what comes after them is counted with the others.
MAX_COUNTED = 10_000
COUNTERS = {
    "requests": "Generate calls that ended",
    "refused": "Generate calls that a quota or a full queue refused",
    "prompt_tokens": "Tokens of prompts taken in",
    "generation_tokens": "Tokens of answers given out",
}


@dataclass
class _Use:
    """Totals in the order of COUNTERS, and which part of them belongs to the others."""

    totals: list[float] = field(default_factory=lambda: [0.0] * len(COUNTERS))
    unnamed: list[float] = field(default_factory=lambda: [0.0] * len(COUNTERS))

    @property
    def tokens(self) -> float:
        return self.totals[2] + self.totals[3]


class Tally(Protocol):
    """Where what tenants use is counted."""

    def add(self, tenant: str, **counts: float) -> None:
        """`counts` are named as in COUNTERS."""


class TenantMetrics(Collector):
    def __init__(self, most: int) -> None:
        """`most`: tenants under their own names."""
        self._most = most
        self._uses: dict[str, _Use] = {}
        self._rest = _Use()
        self._named: set[str] = set()

    def add(self, tenant: str, **counts: float) -> None:
        use = self._use(tenant)
        for index, name in enumerate(COUNTERS):
            use.totals[index] += counts.get(name, 0.0)

    def collect(self) -> Iterator[CounterMetricFamily]:
        self._choose()
        # Of one moment, although the loop goes on counting while a scrape reads.
        uses = {name: (list(use.totals), list(use.unnamed)) for name, use in list(self._uses.items())}
        for index, (name, text) in enumerate(COUNTERS.items()):
            family = CounterMetricFamily(f"lorikeet:tenant_{name}", text, labels=["tenant"])
            others = self._rest.totals[index]
            for tenant, (totals, unnamed) in uses.items():
                is_named = tenant in self._named
                others += unnamed[index] if is_named else totals[index]
                if is_named:
                    family.add_metric([tenant], totals[index] - unnamed[index])
            family.add_metric([OTHERS], others)
            yield family

    def _use(self, tenant: str) -> _Use:
        if tenant not in self._uses and len(self._uses) >= MAX_COUNTED:
            return self._rest
        return self._uses.setdefault(tenant, _Use())

    def _choose(self) -> None:
        """A name is lost only to a tenant that uses twice as much: names should not change at each scrape."""
        for tenant, use in sorted(list(self._uses.items()), key=lambda pair: -pair[1].tokens):
            if tenant in self._named:
                continue
            if len(self._named) >= self._most:
                least = min(self._named, key=lambda name: self._uses[name].tokens, default=None)
                if least is None or use.tokens <= 2 * self._uses[least].tokens:
                    return
                self._named.discard(least)
            # What was shown under a name moves to the others only once that name is gone.
            use.unnamed = list(use.totals)
            self._named.add(tenant)
