"""Figures of records written by hand."""

import math

import numpy as np
import pytest

from loadtests.drive.records import MetricSample, Record, Run
from loadtests.measure import Objective, Spread, fairness, measure
from loadtests.measure.fairness import share_out
from loadtests.measure.figures import figures_of, known_figures, ratios
from loadtests.measure.measures import counted, in_flight_at, inter_token
from tests.loadtests.measure.records import record


def run_of(*records: Record, duration: float = 10.0, **weights: float) -> Run:
    return Run("r", "t", 0, duration, 0.0, list(records), weights=weights)


def test_percentiles_need_samples_beyond_them() -> None:
    spread = Spread.of(np.arange(1, 1001))
    assert (spread.p50, spread.p90, spread.p99) == pytest.approx((500.5, 900.1, 990.01))
    assert spread.p999 == pytest.approx(999.001) and spread.largest == 1000
    assert math.isnan(Spread.of(range(999)).p999) and math.isnan(Spread.of(range(99)).p99)
    assert Spread.of([1.0, math.nan, 3.0]).count == 2
    assert Spread.of([]).count == 0 and math.isnan(Spread.of([]).p50)


def test_latencies_count_from_when_a_request_was_due() -> None:
    late = record(0, 1.0, (0.5, 1), (0.7, 2), (1.0, 3), sent=1.4, load_seconds=0.2)
    m = measure(run_of(late))
    assert m.first_token.mean == pytest.approx(0.5) and m.latency.mean == pytest.approx(1.0)
    assert m.lateness.largest == pytest.approx(0.4) and not m.is_sound
    # Gaps of 0.2 s over two tokens and 0.3 s over three: a tenth of a second for each of five.
    assert inter_token([late]) == pytest.approx([0.1] * 5)
    assert m.longest_gap.largest == pytest.approx(0.3)
    assert late.per_token == pytest.approx(0.1)


def test_good_answers_keep_both_limits_and_failures_are_never_good() -> None:
    records = [
        record(0, 0.0, (0.1, 1), (0.2, 1)),
        record(1, 0.0, (0.9, 1), (1.0, 1)),
        record(2, 0.0, (0.1, 1), (0.9, 1)),
        record(3, 0.0, (0.1, 5)),
        record(4, 0.0, asked_tokens=2),
    ]
    m = measure(run_of(*records), Objective(first_token_ms=500, per_token_ms=200))
    assert (m.good_share, m.goodput) == (0.4, 0.2)
    assert m.outcomes == {"ok": 4, "unavailable": 1} and m.failed == 1
    assert m.first_token.count == 4


def test_cold_and_warm_are_told_apart_only_where_the_server_says() -> None:
    cold, warm = record(0, 0.0, (2.0, 1), load_seconds=1.5), record(1, 0.0, (0.5, 1), load_seconds=0.0)
    m = measure(run_of(cold, warm))
    assert (m.cold_share, m.cold_first_token.mean, m.warm_first_token.mean) == (0.5, 2.0, 0.5)
    assert math.isnan(measure(run_of(record(0, 0.0, (1.0, 1)))).cold_share)
    # The base is never cold, and makes no adapter seem warmer.
    base = record(2, 0.0, (0.5, 1), load_seconds=0.0, adapter="")
    assert measure(run_of(cold, warm, base)).cold_share == 0.5


def test_who_was_cut_off_counts_with_what_it_had_waited() -> None:
    """Left out, the slowest would make all percentiles better."""
    quick = [record(n, 0.0, (0.1, 1), (0.2, 1)) for n in range(9)]
    never = record(9, 1.0, outcome="unfinished", end=31.0, asked_tokens=2)
    stuck = record(10, 1.0, (0.5, 1), (0.7, 1), outcome="unfinished", end=31.0, asked_tokens=9)
    m = measure(run_of(*quick, never, stuck))
    assert (m.first_token.count, m.first_token.largest) == (11, 30.0)
    assert m.latency.largest == 30.0 and m.longest_gap.count == 10
    assert m.good_share == 9 / 11 and m.failed == 2
    refused = record(9, 1.0, outcome="resource_exhausted", end=1.001, asked_tokens=2)
    assert measure(run_of(*quick, refused)).first_token.count == 9


def test_a_driver_without_time_to_spare_measures_itself() -> None:
    run = run_of(record(0, 0.0, (1.0, 1)))
    run.cpu_seconds = 9.0
    assert not measure(run).is_sound
    run.processes = 2
    assert measure(run).is_sound


def test_throughput_is_of_the_time_in_which_requests_were_due() -> None:
    m = measure(run_of(record(0, 8.0, (1.0, 30), (3.0, 70)), record(1, 0.0, (1.0, 10), asked_tokens=20)))
    assert m.token_throughput == 4.0 and m.request_throughput == 0.1
    assert (m.backlog, m.short_answers) == (1, 1)


def test_how_many_were_in_flight() -> None:
    times, counts = in_flight_at([record(0, 0.0, (3.0, 1)), record(1, 1.0, (1.0, 1)), record(2, 5.0)])
    assert times.tolist() == [0, 1, 2, 3, 5] and counts.tolist() == [1, 2, 1, 0, 1]


def test_what_tenants_are_owed() -> None:
    assert share_out(100, {"a": 10, "b": 500, "c": 500}, {}) == {"a": 10, "b": 45, "c": 45}
    assert share_out(100, {"a": 500, "b": 500}, {"a": 3.0}) == {"a": 75, "b": 25}
    assert share_out(100, {"a": 20, "b": 30}, {}) == {"a": 20, "b": 30}


def test_fairness_sees_who_was_served_in_time() -> None:
    mine = record(0, 0.0, (1.0, 90), asked_tokens=200, tenant="mine")
    theirs = record(1, 0.0, (1.0, 10), (11.0, 190), tenant="theirs")
    found = fairness(run_of(mine, theirs))
    assert found.served == {"mine": 90, "theirs": 10} and found.owed == {"mine": 50, "theirs": 50}
    assert found.deviation == pytest.approx(0.4)
    assert found.jain == pytest.approx(100**2 / (2 * (90**2 + 10**2)))
    assert fairness(run_of(mine, theirs, mine=9.0)).deviation == pytest.approx(0.0)


def test_a_run_without_requests_has_no_figures() -> None:
    with pytest.raises(ValueError, match="no figures"):
        measure(run_of())


def test_counters_of_a_server_that_was_started_again() -> None:
    looks = [MetricSample(float(at), {"loads": value}) for at, value in enumerate((5.0, 8.0, 1.0, 2.0))]
    assert counted([*looks, MetricSample(4.0, {})], "loads") == 5.0
    assert math.isnan(counted([], "loads"))


def test_drift_is_the_end_over_the_beginning() -> None:
    slower = [record(n, float(n), (0.1 + 0.1 * (n > 5), 1)) for n in range(9)]
    assert measure(run_of(*slower, duration=9.0)).drift["first_token_p50"] == pytest.approx(2.0)


def test_figures_have_names_that_bars_can_use() -> None:
    figures = figures_of(measure(run_of(*(record(n, 0.0, (0.1, 1), (0.3, 1)) for n in range(2)))))
    assert figures["first_token_p50_ms"] == pytest.approx(100) and figures["inter_token_mean_ms"] > 0
    assert figures.keys() <= known_figures() and "first_token_p50_ms_ratio" in known_figures()
    halved = ratios(figures, {**figures, "latency_p50_ms": 2 * figures["latency_p50_ms"]})
    assert halved["latency_p50_ms_ratio"] == pytest.approx(0.5)
    assert halved["first_token_p50_ms_ratio"] == pytest.approx(1.0)


def test_an_answer_that_had_begun_and_broke() -> None:
    broken = record(0, 0.0, (0.1, 1), outcome="unavailable")
    refused = record(1, 0.0, asked_tokens=3)
    assert measure(run_of(broken, refused)).broken == 1
