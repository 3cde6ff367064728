"""A scenario played: adapters brought, a baseline if it has one, the load, its figures against its bars."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.drive.fleet import Watch, drive
from loadtests.drive.records import Run
from loadtests.drive.scrape import Scraper
from loadtests.figures import LoadTestError
from loadtests.measure.figures import figures_of, known_figures, ratios
from loadtests.measure.measures import Measures, measure
from loadtests.scenario.options import RunOptions
from loadtests.scenario.place import Place
from loadtests.scenario.provision import provision
from loadtests.scenario.spec import Action, Bar, Scenario
from loadtests.workload.events import Workload
from loadtests.workload.make import make

# Gives the watch of a run with this title and so many requests, for as long as it lasts.
Screen = Callable[[str, int], AbstractContextManager[Watch | None]]


@dataclass(frozen=True)
class Verdict:
    figure: str
    bar: Bar
    value: float

    @property
    def is_met(self) -> bool:
        return self.bar.holds(self.value)


@dataclass(frozen=True)
class Played:
    scenario: Scenario
    run: Run
    measures: Measures
    figures: dict[str, float]
    verdicts: tuple[Verdict, ...]
    baseline: Run | None = None

    @property
    def is_passed(self) -> bool:
        return all(verdict.is_met for verdict in self.verdicts)


def play(scenario: Scenario, place: Place, options: RunOptions, screen: Screen) -> Played:
    """Raises LoadTestError where the scenario cannot be played here."""
    if scenario.actions and place.server is None:
        raise LoadTestError(f"{scenario.name} does things to the server that only --serve allows")
    if unknown := scenario.bars.keys() - known_figures():
        raise LoadTestError(f"{scenario.name} has bars for figures that there are not: {', '.join(unknown)}")
    workload = make(scenario.workload, options.seed)
    quiet = _baseline(scenario, workload, options.seed)
    both = [each for each in (quiet, workload) if each is not None]
    if place.template is not None:
        provision_all(both, place)
    runs = [run_once(each, scenario, place, options, screen) for each in both]
    return _judge(scenario, runs)


def _baseline(scenario: Scenario, workload: Workload, seed: int) -> Workload | None:
    if scenario.baseline is not None:
        return make(scenario.baseline, seed)
    if not scenario.focus:
        return None
    alone = tuple(request for request in workload.requests if request.tenant == scenario.focus)
    return replace(workload, name=f"{workload.name}, {scenario.focus} alone", requests=alone)


def provision_all(workloads: Sequence[Workload], place: Place) -> None:
    """Once for all: a name that two of them ask for is one adapter."""
    assert place.template is not None, "there is something to make adapters from"
    asked = {(r.tenant, r.adapter): r for w in workloads for r in w.requests}
    uploads = tuple(upload for workload in workloads for upload in workload.uploads)
    together = replace(workloads[0], requests=tuple(asked.values()), uploads=uploads)
    provision(together, place.target, place.template)


def run_once(
    workload: Workload, scenario: Scenario, place: Place, options: RunOptions, screen: Screen
) -> Run:
    if options.names:
        workload = workload.renamed(Path(options.names).read_text().split())
    with ExitStack() as stack:
        scraper = stack.enter_context(Scraper(place.metrics)) if place.metrics else None
        is_baseline = workload.name != scenario.workload.name
        actions = _Actions(() if is_baseline else scenario.actions, place)
        stack.callback(actions.cancel)

        def begun(start: float) -> None:
            if scraper is not None:
                scraper.begin(start)
            actions.begin(start)

        watch = stack.enter_context(screen(workload.name, len(workload.requests)))
        run = drive(workload, place.target, options.drive_config(place.template), watch, begun)
        run.metrics = scraper.samples() if scraper is not None else []
    run.weights = {tenant.name: tenant.weight for tenant in scenario.workload.tenants}
    return run


class _Actions:
    """What happens to the server beside the load, each on a timer."""

    def __init__(self, actions: Sequence[Action], place: Place) -> None:
        self._actions = actions
        self._place = place
        self._timers: list[threading.Timer] = []

    def begin(self, start: float) -> None:
        for action in self._actions:
            timer = threading.Timer(start + action.at - time.monotonic(), self._place.kill_engine)
            timer.start()
            self._timers.append(timer)

    def cancel(self) -> None:
        for timer in self._timers:
            timer.cancel()


def _judge(scenario: Scenario, runs: Sequence[Run]) -> Played:
    *before, run = [_focused(run, scenario.focus) for run in runs]
    measures = measure(run, scenario.objective)
    figures = figures_of(measures)
    for quiet in before:
        figures |= ratios(figures, figures_of(measure(quiet, scenario.objective)))
    bars = {name: bar for name, bar in scenario.bars.items() if bar.is_there}
    verdicts = tuple(Verdict(name, bar, figures[name]) for name, bar in bars.items())
    return Played(scenario, runs[-1], measures, figures, verdicts, runs[0] if before else None)


def _focused(run: Run, tenant: str) -> Run:
    if not tenant:
        return run
    return replace(run, records=[record for record in run.records if record.tenant == tenant])
