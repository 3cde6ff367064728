"""What a benchmark says: a table for people, figures and bars for programs."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Bar:
    """A figure's goal: at least so much."""

    figure: str
    goal: float


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


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
