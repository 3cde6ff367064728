"""`lorikeet loadtest run`: a scenario against a server, pass or fail."""

import json
from pathlib import Path

from loadtests.drive.store import save
from loadtests.figures import finite, print_table
from loadtests.report.terminal import live, print_measures
from loadtests.scenario.options import RunOptions
from loadtests.scenario.place import placed
from loadtests.scenario.play import Played, play
from loadtests.scenario.spec import read_scenario


def run(name: str, options: RunOptions) -> int:
    """0 if every bar is met."""
    scenario = read_scenario(name, options.scale)
    print(f"{scenario.name}: {scenario.summary}")
    with placed(options, scenario.house) as place:
        played = play(scenario, place, options, live)
    report(played, options)
    return 0 if played.is_passed else 1


def report(played: Played, options: RunOptions) -> None:
    print_measures(played.run, played.measures)
    rows = [(v.figure, f"{v.value:.4g}", str(v.bar), "pass" if v.is_met else "FAIL") for v in played.verdicts]
    if options.html:
        # Only for a page: matplotlib takes a second to come.
        from loadtests.report.page import run_page

        Path(options.html).write_text(run_page(played.run, played.measures, rows), encoding="utf-8")
    print_table("Bars", ("figure", "value", "goal", ""), rows)
    print(f"{played.scenario.name}: {'pass' if played.is_passed else 'FAIL'}")
    if options.out:
        save(played.run, Path(options.out))
    if options.json:
        Path(options.json).write_text(json.dumps(finite(as_json(played)), indent=2) + "\n")


def as_json(played: Played) -> dict[str, object]:
    return {
        "scenario": played.scenario.name,
        "target": played.run.target,
        "figures": played.figures,
        "outcomes": dict(played.measures.outcomes),
        "bars": {v.figure: {"goal": str(v.bar), "value": v.value, "pass": v.is_met} for v in played.verdicts},
        "pass": played.is_passed,
    }
