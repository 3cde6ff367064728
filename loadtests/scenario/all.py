"""`lorikeet loadtest all`: every scenario, one after another, on as few servers of one's own as they need."""

import json
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from loadtests.figures import print_table
from loadtests.report.page import NO_PLOTS, has_plots
from loadtests.report.terminal import live
from loadtests.scenario.options import AllOptions
from loadtests.scenario.outcome import COLUMNS, ERROR, PASS, SKIPPED, Outcome, record
from loadtests.scenario.place import Place, place_there
from loadtests.scenario.play import play
from loadtests.scenario.run import show
from loadtests.scenario.spec import Scenario, names, read_scenario
from lorikeet.errors import LorikeetError
from lorikeet.local import ServerEnded

# Of each scenario beside its loads: processes that start, adapters that come, answers that end.
OVERHEAD_SECONDS = 10.0
NO_TIME = "no time was left for it (--within)"


def run(options: AllOptions) -> int:
    """0 if all were played and every bar was met; but what a server that is there is spared."""
    if not has_plots():
        print(NO_PLOTS)
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    title = f"{options.target or options.model} {options.quantization}, scale {options.scale}"
    outcomes: list[Outcome] = []
    for outcome in _All(options).play():
        outcomes.append(outcome)
        # After each: whatever ends this program, what was found stays.
        record(outcomes, title, folder)
    print_table(f"All scenarios: {title}", COLUMNS, [outcome.row() for outcome in outcomes])
    counted = [each for each in outcomes if options.serve or each.state != SKIPPED]
    return 0 if counted and all(outcome.state == PASS for outcome in counted) else 1


def chosen(options: AllOptions) -> list[Scenario]:
    """Those that kill come last: nobody else meets what they leave behind."""
    told = [name.strip() for name in options.only.split(",")] if options.only else names()
    return sorted((read_scenario(name, options.scale) for name in told), key=lambda s: (s.kills, s.name))


def groups(scenarios: Sequence[Scenario]) -> list[list[Scenario]]:
    """Those that one server can serve, the largest group first."""
    found: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        found.setdefault(json.dumps(scenario.house.flags, sort_keys=True), []).append(scenario)
    return sorted(found.values(), key=len, reverse=True)


def seconds_of(scenario: Scenario) -> float:
    """That it takes at least."""
    both = [scenario.workload, scenario.baseline or (scenario.workload if scenario.focus else None)]
    return sum(spec.arrivals.duration for spec in both if spec is not None) + OVERHEAD_SECONDS


class _All:
    def __init__(self, options: AllOptions) -> None:
        self._options = options
        self._end = time.monotonic() + (options.within or float("inf"))

    def play(self) -> Iterator[Outcome]:
        scenarios = chosen(self._options)
        if not self._options.serve:
            place = place_there(self._options)
            for scenario in scenarios:
                yield self._play_one(scenario, place)
            return
        # Torch is needed to make a base, not to drive a server that is there.
        from loadtests.scenario.own import write_own_base

        with tempfile.TemporaryDirectory(prefix="lorikeet-loadtest-") as name:
            base = write_own_base(self._options, Path(name))
            for number, group in enumerate(groups(scenarios)):
                (folder := Path(name) / f"server-{number}").mkdir()
                yield from self._play_group(group, base, folder)

    def _play_group(self, group: Sequence[Scenario], base: Path, folder: Path) -> Iterator[Outcome]:
        from loadtests.scenario.own import own_server

        if not any(map(self._has_time, group)):
            yield from (Outcome(scenario.name, SKIPPED, NO_TIME) for scenario in group)
            return
        left = iter(group)
        try:
            with own_server(self._options, base, folder, group[0].house.flags) as server:
                for scenario in left:
                    yield self._play_one(scenario, server.place(scenario))
        except (ServerEnded, LorikeetError) as error:
            yield from (Outcome(scenario.name, ERROR, str(error)) for scenario in left)

    def _play_one(self, scenario: Scenario, place: Place) -> Outcome:
        """What goes wrong with one leaves the others to be played."""
        if scenario.kills and place.server is None:
            return Outcome(scenario.name, SKIPPED, "its server must be one's own (--serve)")
        if not self._has_time(scenario):
            return Outcome(scenario.name, SKIPPED, NO_TIME)
        print(f"{scenario.name}: {scenario.summary}", flush=True)
        begun = time.monotonic()
        try:
            played = play(scenario, place, self._options, live)
        except Exception as error:  # noqa: BLE001 (the others are still to be played)
            traceback.print_exc()
            return Outcome(scenario.name, ERROR, str(error), time.monotonic() - begun)
        show(played)
        return Outcome.of(played, time.monotonic() - begun)

    def _has_time(self, scenario: Scenario) -> bool:
        return time.monotonic() + seconds_of(scenario) <= self._end
