"""The figures of one run."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from loadtests.drive.records import MetricSample, Record, Run
from loadtests.measure.fairness import Fairness, fairness
from loadtests.measure.percentiles import Spread
from loadtests.measure.rollout import Rollout, rollout
from server.engine.config import check_options, option

# A driver that sends later than this at p99 measures itself, and so does one that is busier than this.
LATE_SECONDS = 0.01
MOST_BUSY = 0.8


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What an answer must keep to be a good one."""

    first_token_ms: float = option(1000.0, "to the first token, from when the request was due")
    per_token_ms: float = option(100.0, "between tokens after it, on average over the answer")
    share: float = option(0.99, "part of all requests that must be good", bounds=(0.0, 1.0))

    def __post_init__(self) -> None:
        check_options(self)

    def holds(self, record: Record) -> bool:
        """An answer whose tokens all came at once has no time between tokens to miss."""
        is_quick = record.first_token * 1e3 <= self.first_token_ms
        return record.is_ok and is_quick and not record.per_token * 1e3 > self.per_token_ms


@dataclass(frozen=True)
class Measures:
    """Seconds, and rates a second. Latencies count from when a request was due, failed ones left out.

    Whoever was cut off counts with what it had waited by then, so that no percentile is less than it is.
    request_throughput, token_throughput: of what was given out while requests were due.
    inter_token: a sample for each token after an answer's first message: the message's gap over its tokens.
    cold_share: of the adapters' answers of which the server says so, the part that had to wait for its own.
    adapter_loads: that the server counted; nan if nobody watched its metrics.
    driver_cores: processors that the driver itself kept busy, on average, with so many processes.
    broken: answers that had begun and came to no good end.
    longest_gap: of each answer, the longest time between two messages.
    drift: medians of the last third of the time over those of the first.
    """

    requests: int
    offered_rate: float
    outcomes: Mapping[str, int]
    first_token: Spread
    cold_first_token: Spread
    warm_first_token: Spread
    inter_token: Spread
    longest_gap: Spread
    latency: Spread
    lateness: Spread
    good_share: float
    goodput: float
    request_throughput: float
    token_throughput: float
    cold_share: float
    adapter_loads: float
    driver_cores: float
    driver_processes: int
    short_answers: int
    broken: int
    most_in_flight: int
    backlog: int
    drift: Mapping[str, float]
    fairness: Fairness
    rollout: Rollout
    objective: Objective
    uploads: Mapping[str, int] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        return self.requests - self.outcomes.get("ok", 0)

    @property
    def is_sound(self) -> bool:
        """Whether the driver kept its own schedule; if not, the figures are the driver's as well."""
        late = self.lateness.largest if math.isnan(self.lateness.p99) else self.lateness.p99
        return not late > LATE_SECONDS and self.driver_cores <= MOST_BUSY * self.driver_processes


def measure(run: Run, objective: Objective | None = None) -> Measures:
    """Of all requests of the run. Raises ValueError for a run without any."""
    if not run.records:
        raise ValueError("a run without requests has no figures")
    objective = objective or Objective()
    ok = [record for record in run.records if record.is_ok]
    heard = [record for record in run.records if record.is_ok or record.is_cut_off]
    good, fair = sum(map(objective.holds, run.records)), fairness(run)
    colds = [record.is_cold for record in ok if record.is_cold is not None]
    in_flight = in_flight_at(run.records)
    return Measures(
        requests=len(run.records),
        offered_rate=len(run.records) / run.duration,
        outcomes=dict(Counter(record.outcome for record in run.records)),
        first_token=Spread.of([record.waited for record in heard]),
        cold_first_token=Spread.of([record.first_token for record in ok if record.is_cold]),
        warm_first_token=Spread.of([record.first_token for record in ok if record.is_cold is False]),
        inter_token=Spread.of(inter_token(heard)),
        longest_gap=Spread.of([float(np.diff(r.times).max()) for r in heard if len(r.times) > 1]),
        latency=Spread.of([record.latency for record in heard]),
        lateness=Spread.of([record.lateness for record in run.records]),
        good_share=good / len(run.records),
        goodput=good / run.duration,
        request_throughput=sum(record.end < run.duration for record in ok) / run.duration,
        token_throughput=sum(fair.served.values()) / run.duration,
        cold_share=sum(colds) / len(colds) if colds else math.nan,
        adapter_loads=counted(run.metrics, "adapter_loads_total"),
        driver_cores=run.cpu_seconds / max([run.duration, *(record.end for record in heard)]),
        driver_processes=run.processes,
        short_answers=sum(record.tokens < record.asked_tokens for record in ok),
        broken=sum(not record.is_ok and len(record.times) > 0 for record in run.records),
        most_in_flight=int(in_flight[1].max(initial=0)),
        backlog=sum(not record.end <= run.duration for record in run.records),
        drift={
            "first_token_p50": _drift(run, lambda record: record.first_token),
            "inter_token_p50": _drift(run, lambda record: record.per_token),
        },
        fairness=fair,
        rollout=rollout(run),
        objective=objective,
        uploads=dict(Counter(upload.outcome for upload in run.uploads)),
    )


def _drift(run: Run, value: Callable[[Record], float]) -> float:
    """Median of what was due in the last third of the time over that of the first."""
    early, _, late = (
        [value(r) for r in run.records if r.is_ok and int(3 * r.scheduled / run.duration) == third]
        for third in range(3)
    )
    before, after = Spread.of(early).p50, Spread.of(late).p50
    return after / before if before else math.nan


def counted(samples: Sequence[MetricSample], name: str) -> float:
    """How far a counter of the server went up; nan if it was never seen. It starts anew with its process."""
    values = [sample.values[name] for sample in samples if name in sample.values]
    if not values:
        return math.nan
    steps = zip(values, values[1:], strict=False)
    return sum(after - before if after >= before else after for before, after in steps)


def inter_token(records: Sequence[Record]) -> NDArray[np.float64]:
    """[tokens after first messages]."""
    gaps = [np.zeros(0)]
    for record in records:
        counts = np.asarray(record.counts)[1:]
        gaps.append(np.repeat(np.diff(record.times) / counts, counts))
    return np.concatenate(gaps)


def in_flight_at(records: Sequence[Record]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Times at which the number of requests due and not ended changes, and the number from then on."""
    begun = [record.scheduled for record in records]
    ended = [record.end for record in records if not math.isnan(record.end)]
    times = np.asarray(begun + ended)
    steps = np.asarray([1] * len(begun) + [-1] * len(ended))
    order = np.argsort(times, kind="stable")
    return times[order], np.cumsum(steps[order])
