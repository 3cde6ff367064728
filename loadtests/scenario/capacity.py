"""`lorikeet loadtest capacity`: the highest rate at which a scenario's load keeps its objective."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.figures import LoadTestError, finite, print_table
from loadtests.measure.figures import figures_of
from loadtests.measure.measures import Measures, measure
from loadtests.report.terminal import live, milliseconds
from loadtests.scenario.options import ABOVE_ZERO, RunOptions
from loadtests.scenario.place import Place
from loadtests.scenario.placed import placed
from loadtests.scenario.play import require_playable, run_once
from loadtests.scenario.provision import provision
from loadtests.scenario.spec import Scenario, read_scenario
from loadtests.workload.make import make
from server.engine.config import COUNT, option

FACTOR = 2.0


@dataclass(frozen=True, kw_only=True)
class CapacityOptions(RunOptions):
    start: float = option(
        0.0, "requests a second to begin with; 0: the scenario's", bounds=(0.0, float("inf"))
    )
    tolerance: float = option(0.1, "part of the rate by which the answer may be too low", bounds=ABOVE_ZERO)
    probes: int = option(12, "runs at most", bounds=COUNT)


@dataclass(frozen=True)
class Capacity:
    """best: the highest rate that was kept, 0 if none was; failed: the lowest that was not, inf if none."""

    best: float
    failed: float


def search(keeps: Callable[[float], bool], start: float, tolerance: float, probes: int) -> Capacity:
    """Doubles or halves until the answer lies between two rates, then halves what is between them."""
    best, failed = 0.0, float("inf")
    for _ in range(probes):
        if best and failed <= best * (1 + tolerance):
            break
        if not best:
            rate = start if failed == float("inf") else failed / FACTOR
        else:
            rate = best * FACTOR if failed == float("inf") else (best * failed) ** 0.5
        if keeps(rate):
            best = rate
        else:
            failed = rate
    return Capacity(best, failed)


def run(name: str, options: CapacityOptions) -> int:
    """0 if some rate keeps the objective."""
    scenario = read_scenario(name, options.scale)
    if scenario.workload.arrivals.kind == "trace":
        raise LoadTestError("a trace has the rate that it has: take a scenario with drawn arrivals")
    tried: list[tuple[float, Measures]] = []
    with placed(options, scenario) as place:
        start = options.start or scenario.workload.arrivals.rate
        _provision(scenario, place, options)

        def keeps(rate: float) -> bool:
            measures = _measure_at(rate, scenario, place, options)
            tried.append((rate, measures))
            return is_kept(measures)

        found = search(keeps, start, options.tolerance, options.probes)
    report(scenario, found, tried)
    if options.json:
        runs = [{"rate": rate, "kept": is_kept(m), **figures_of(m)} for rate, m in tried]
        told = {"best": found.best, "failed": found.failed, "runs": runs}
        Path(options.json).write_text(json.dumps(finite(told), indent=2) + "\n")
    return 0 if found.best else 1


def is_kept(measures: Measures) -> bool:
    """By enough of the requests, and by a driver that was not itself the limit."""
    return measures.good_share >= measures.objective.share and measures.is_sound


def _provision(scenario: Scenario, place: Place, options: CapacityOptions) -> None:
    """At the most popular rates every adapter is asked for; a longer draw finds them all."""
    require_playable(replace(scenario, actions=()), place)
    arrivals = replace(scenario.workload.arrivals, rate=scenario.workload.arrivals.rate * 100)
    provision([make(replace(scenario.workload, arrivals=arrivals), options.seed)], place)


def _measure_at(rate: float, scenario: Scenario, place: Place, options: CapacityOptions) -> Measures:
    spec = replace(scenario.workload, arrivals=replace(scenario.workload.arrivals, rate=rate))
    named = replace(spec, name=f"{scenario.name} at {rate:.2f}/s")
    run = run_once(make(named, options.seed), place, options, live)
    return measure(run, scenario.objective)


def report(scenario: Scenario, found: Capacity, tried: list[tuple[float, Measures]]) -> None:
    rows = [
        (
            f"{rate:.2f}",
            f"{m.good_share:.2%}",
            milliseconds(m.first_token.p99),
            f"{m.token_throughput:,.0f}",
            f"{m.backlog:,}",
            "kept" if is_kept(m) else "missed" if m.is_sound else "the driver was late",
        )
        for rate, m in tried
    ]
    o = scenario.objective
    title = (
        f"{scenario.name}: {o.share:.2%} within {o.first_token_ms:g} ms, then {o.per_token_ms:g} ms a token"
    )
    print_table(title, ("requests/s", "good", "first token p99 ms", "tokens/s", "backlog", ""), rows)
    beyond = f"; {found.failed:.2f} are too many" if found.failed < float("inf") else ""
    print(f"{found.best:.2f} requests/s keep the objective{beyond}" if found.best else "no rate keeps it")
