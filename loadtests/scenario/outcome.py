"""What became of each of several scenarios, as rows, a page and a file."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.figures import finite
from loadtests.report.page import summary_page
from loadtests.scenario.play import Played
from loadtests.scenario.run import as_json, write

COLUMNS = ("scenario", "seconds", "requests", "tokens/s", "first token p50 ms", "p99 ms", "", "why")
PASS, FAIL, ERROR, SKIPPED = "pass", "FAIL", "ERROR", "skipped"


@dataclass(frozen=True)
class Outcome:
    """why: the bars that were missed, or what stood in the way. seconds: of all that was done for it."""

    name: str
    state: str
    why: str = ""
    seconds: float = 0.0
    played: Played | None = None

    @classmethod
    def of(cls, played: Played, seconds: float) -> "Outcome":
        missed = [f"{v.figure} is {v.value:.4g}, not {v.bar}" for v in played.verdicts if not v.is_met]
        state = FAIL if missed else PASS
        return cls(played.scenario.name, state, "; ".join(missed), seconds, played)

    def row(self) -> tuple[str, ...]:
        if self.played is None:
            return self.name, f"{self.seconds:.0f}", "", "", "", "", self.state, self.why
        figures = self.played.figures
        firsts = [figures[f"first_token_{quantile}_ms"] for quantile in ("p50", "p99")]
        return (
            *(self.name, f"{self.seconds:.0f}", f"{figures['requests']:,.0f}"),
            f"{figures['token_throughput']:,.0f}",
            *("–" if math.isnan(first) else f"{first:,.1f}" for first in firsts),
            *(self.state, self.why),
        )


def record(outcomes: Sequence[Outcome], title: str, folder: Path) -> None:
    """The newest outcome's files, and the summary of all so far."""
    newest = outcomes[-1]
    if newest.played is not None:
        files = [str(folder / f"{newest.name}.{ending}") for ending in ("jsonl", "json", "html")]
        write(newest.played, *files)
    told = {
        each.name: {
            "state": each.state,
            "why": each.why,
            "seconds": each.seconds,
            **(as_json(each.played) if each.played is not None else {}),
        }
        for each in outcomes
    }
    (folder / "all.json").write_text(json.dumps(finite(told), indent=2) + "\n")
    links = ["" if each.played is None else f"{each.name}.html" for each in outcomes]
    page = summary_page("All scenarios", title, COLUMNS, [each.row() for each in outcomes], links)
    (folder / "index.html").write_text(page, encoding="utf-8")
