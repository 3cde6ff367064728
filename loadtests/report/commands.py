"""`lorikeet loadtest report` and `lorikeet loadtest compare`: from raw results, without a server."""

import json
from dataclasses import dataclass
from pathlib import Path

from loadtests.drive.store import load
from loadtests.figures import LoadTestError, finite, print_table
from loadtests.measure.compare import compare
from loadtests.measure.figures import figures_of
from loadtests.measure.measures import Objective, measure
from loadtests.report.page import CHANGE_COLUMNS, change_row, comparison_page, run_page
from loadtests.report.terminal import print_measures
from server.engine.config import option


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    first_token_ms: float = option(1000.0, "of the objective: to the first token")
    per_token_ms: float = option(100.0, "of the objective: between tokens, on average")
    json: str = option("", "file for all figures")
    html: str = option("", "file for a page with plots")

    @property
    def objective(self) -> Objective:
        return Objective(first_token_ms=self.first_token_ms, per_token_ms=self.per_token_ms)


def report(file: str, options: ReportOptions) -> int:
    run = load(_existing(file))
    measures = measure(run, options.objective)
    print_measures(run, measures)
    _write(options.json, json.dumps(finite(figures_of(measures)), indent=2) + "\n")
    if options.html:
        _write(options.html, run_page(run, measures))
    return 0


def compare_runs(before: str, after: str, options: ReportOptions) -> int:
    """1 if something is worse."""
    runs = load(_existing(before)), load(_existing(after))
    changes = compare(*runs)
    print_table(f"{runs[0].name}: B against A", CHANGE_COLUMNS, [change_row(change) for change in changes])
    told = {c.figure: {"ratio": c.ratio, "low": c.low, "high": c.high, "verdict": c.verdict} for c in changes}
    _write(options.json, json.dumps(finite(told), indent=2) + "\n")
    if options.html:
        measures = measure(runs[0], options.objective), measure(runs[1], options.objective)
        _write(options.html, comparison_page(*runs, measures, changes))
    return int(any(change.verdict == "worse" for change in changes))


def _existing(file: str) -> Path:
    if not Path(file).is_file():
        raise LoadTestError(f"there is no file {file}")
    return Path(file)


def _write(file: str, text: str) -> None:
    if file:
        Path(file).write_text(text, encoding="utf-8")
