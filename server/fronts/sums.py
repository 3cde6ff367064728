"""What all fronts count, added up for one scrape."""

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from server.fronts.messages import Figure

# Family, sample, labels.
Key = tuple[str, str, tuple[tuple[str, str], ...]]
Counts = dict[Key, float]
# No front has this number.
GONE = 0


def figures_of(registry: CollectorRegistry) -> list[Figure]:
    """Everything that a registry holds, but for the times at which counting began."""
    return [
        (family.name, sample.name, sample.labels, sample.value)
        for family in registry.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    ]


class Sums(Collector):
    """One front's registry with what others told added: counters of those too that are gone."""

    def __init__(self, own: CollectorRegistry) -> None:
        self.registry = CollectorRegistry()
        self._own = own
        # By front. Replaced whole, because a scrape reads it on another thread.
        self._counts: dict[int, Counts] = {GONE: {}}
        self.registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Nothing: its names are those of the registry that it reads."""
        return ()

    def put(self, front: int, figures: Iterable[Figure]) -> None:
        """All that another front has counted so far."""
        counts = {(family, name, tuple(sorted(labels.items()))): v for family, name, labels, v in figures}
        self._counts = {**self._counts, front: counts}

    def leave(self, front: int) -> None:
        """No line falls because a front is gone."""
        left = dict(self._counts)
        left[GONE] = _add([left[GONE], left.pop(front, {})])
        self._counts = left

    def collect(self) -> Iterator[Metric]:
        counts = self._counts
        lasting = _add(counts.values())
        present = _add(each for front, each in counts.items() if front != GONE)
        for family in self._own.collect():
            yield _sum(family, present if family.type == "gauge" else lasting)


def _add(counts: Iterable[Counts]) -> Counts:
    total: Counter[Key] = Counter()
    for each in counts:
        total.update(each)
    return dict(total)


def _sum(family: Metric, counts: Counts) -> Metric:
    added = {key: value for key, value in counts.items() if key[0] == family.name}
    total = Metric(family.name, family.documentation, family.type)
    for sample in family.samples:
        key = (family.name, sample.name, tuple(sorted(sample.labels.items())))
        total.add_sample(sample.name, sample.labels, sample.value + added.pop(key, 0.0))
    for (_, name, labels), value in added.items():
        total.add_sample(name, dict(labels), value)
    return total
