"""`lorikeet loadtest run`: a scenario against a server, pass or fail."""

import json
from pathlib import Path

from loadtests.drive.store import save
from loadtests.figures import finite, print_table
from loadtests.report.page import NO_PLOTS, has_plots, run_page
from loadtests.report.terminal import live, print_measures
from loadtests.scenario.options import RunOptions
from loadtests.scenario.placed import placed
from loadtests.scenario.play import Played, play
from loadtests.scenario.spec import read_scenario


def run(name: str, options: RunOptions) -> int:
    """0 if every bar is met."""
    scenario = read_scenario(name, options.scale)
    print(f"{scenario.name}: {scenario.summary}")
    with placed(options, scenario) as place:
        played = play(scenario, place, options, live)
    show(played)
    if options.html and not has_plots():
        print(NO_PLOTS)
    write(played, options.out, options.json, options.html)
    return 0 if played.is_passed else 1


def show(played: Played) -> None:
    print_measures(played.run, played.measures)
    print_table("Bars", ("figure", "value", "goal", ""), bar_rows(played))
    print(f"{played.scenario.name}: {'pass' if played.is_passed else 'FAIL'}")


def write(played: Played, out: str, figures: str, page: str) -> None:
    """Raw results, figures and bars, a page: each where a file is named for it."""
    if page:
        Path(page).write_text(run_page(played.run, played.measures, bar_rows(played)), encoding="utf-8")
    if out:
        save(played.run, Path(out))
    if figures:
        Path(figures).write_text(json.dumps(finite(as_json(played)), indent=2) + "\n")


def bar_rows(played: Played) -> list[tuple[str, str, str, str]]:
    return [(v.figure, f"{v.value:.4g}", str(v.bar), "pass" if v.is_met else "FAIL") for v in played.verdicts]


def as_json(played: Played) -> dict[str, object]:
    return {
        "scenario": played.scenario.name,
        "target": played.run.target,
        "figures": played.figures,
        "outcomes": dict(played.measures.outcomes),
        "bars": {v.figure: {"goal": str(v.bar), "value": v.value, "pass": v.is_met} for v in played.verdicts},
        "pass": played.is_passed,
    }
