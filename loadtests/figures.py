"""What a benchmark says: a table for people, figures and bars for programs."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Bar:
    """A figure's goal: at least so much."""

    figure: str
    goal: float


class LoadTestError(Exception):
    """A load test cannot go on; the sentence is for the user."""


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    # A file takes wide lines, a terminal those that fit.
    console = Console() if Console().is_terminal else Console(width=120)
    console.print(table)


def finite(figures: Any) -> Any:
    """For JSON, which has no word for what is no number: null."""
    if isinstance(figures, dict):
        return {name: finite(value) for name, value in figures.items()}
    if isinstance(figures, list):
        return [finite(value) for value in figures]
    return None if isinstance(figures, float) and not math.isfinite(figures) else figures


def write_figures(figures: dict[str, float], bars: Sequence[Bar]) -> bool:
    """Prints the bars, writes all to $BENCH_JSON if that is set; True if every bar is met."""
    verdicts = {
        bar.figure: {"goal": bar.goal, "value": figures[bar.figure], "pass": figures[bar.figure] >= bar.goal}
        for bar in bars
    }
    rows = [
        (name, f"{v['value']:.2f}", f">= {v['goal']:g}", "pass" if v["pass"] else "FAIL")
        for name, v in verdicts.items()
    ]
    print_table("Bars", ("figure", "value", "goal", ""), rows)
    target = os.environ.get("BENCH_JSON")
    if target:
        Path(target).write_text(json.dumps({"figures": figures, "bars": verdicts}, indent=2) + "\n")
    return all(v["pass"] for v in verdicts.values())
