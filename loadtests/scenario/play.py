"""A scenario played: adapters brought, a baseline if it has one, the load, its figures against its bars."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from loadtests.drive.fleet import Watch, drive
from loadtests.drive.records import Run
from loadtests.drive.scrape import Scraper
from loadtests.figures import LoadTestError
from loadtests.measure.fairness import fairness
from loadtests.measure.figures import figures_of, known_figures, ratios
from loadtests.measure.measures import Measures, measure
from loadtests.scenario.actions import Actions
from loadtests.scenario.options import PlaceOptions
from loadtests.scenario.place import Place
from loadtests.scenario.provision import provision
from loadtests.scenario.spec import SHIFT, Bar, Scenario
from loadtests.workload.events import Workload
from loadtests.workload.make import make

# Gives the watch of a run with this title and so many requests, for as long as it lasts.
Screen = Callable[[str, int], AbstractContextManager[Watch | None]]

# Requests that a server of one's own answers before anything is measured, and the seconds between them.
WARM_UP, WARM_UP_GAP = 24, 0.1


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


def play(scenario: Scenario, place: Place, options: PlaceOptions, screen: Screen) -> Played:
    """Raises LoadTestError where the scenario cannot be played here."""
    require_playable(scenario, place)
    workload = make(scenario.workload, options.seed)
    quiet = _baseline(scenario, workload, options.seed)
    both = [each for each in (quiet, workload) if each is not None]
    aliases = provision(both, place)
    if place.is_fresh:
        # The first requests of a process pay for what is made once.
        run_once(_warm_up(workload), place, options, screen)
    runs = [run_once(each, place, options, screen) for each in both[:-1]]
    runs.append(run_once(workload, place, options, screen, Actions(scenario.actions, place, aliases)))
    for run in runs:
        run.weights = {tenant.name: tenant.weight for tenant in scenario.workload.tenants}
    return judge(scenario, runs)


def require_playable(scenario: Scenario, place: Place) -> None:
    if scenario.kills and place.server is None:
        raise LoadTestError(f"{scenario.name} does things to the server that only --serve allows")
    if place.template is None and any(action.kind == SHIFT for action in scenario.actions):
        raise LoadTestError(f"{scenario.name} uploads versions: name a folder to make them from (--adapter)")
    if unknown := scenario.bars.keys() - known_figures():
        raise LoadTestError(f"{scenario.name} has bars for figures that there are not: {', '.join(unknown)}")


def _baseline(scenario: Scenario, workload: Workload, seed: int) -> Workload | None:
    if scenario.baseline is not None:
        return make(scenario.baseline, seed)
    if not scenario.focus:
        return None
    alone = tuple(request for request in workload.requests if request.tenant == scenario.focus)
    return replace(workload, name=f"{workload.name}, {scenario.focus} alone", requests=alone)


def _warm_up(workload: Workload) -> Workload:
    first = workload.requests[:WARM_UP]
    requests = tuple(replace(request, at=n * WARM_UP_GAP) for n, request in enumerate(first))
    name = f"{workload.name}, warm-up"
    return replace(workload, name=name, duration=WARM_UP * WARM_UP_GAP, requests=requests, uploads=())


def run_once(
    workload: Workload, place: Place, options: PlaceOptions, screen: Screen, actions: Actions | None = None
) -> Run:
    if options.names:
        workload = workload.renamed(Path(options.names).read_text().split())
    with ExitStack() as stack:
        scraper = stack.enter_context(Scraper(place.metrics)) if place.metrics else None
        if actions is not None:
            stack.callback(actions.stop)

        def begun(start: float) -> None:
            for each in (scraper, actions):
                if each is not None:
                    each.begin(start)

        watch = stack.enter_context(screen(workload.name, len(workload.requests)))
        config = options.drive_config(place.template)
        run = drive(workload, place.target, config, watch, begun)
        run.metrics = scraper.samples() if scraper is not None else []
        run.shifts = actions.end() if actions is not None else []
    return run


def judge(scenario: Scenario, runs: Sequence[Run]) -> Played:
    """Of the last run; one before it is the baseline. Fairness is always between all tenants."""
    *before, run = [_focused(run, scenario.focus) for run in runs]
    measures = replace(measure(run, scenario.objective), fairness=fairness(runs[-1]))
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
