"""`lorikeet train check`: what can be known of a run before it takes a device."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli.guard import require
from lorikeet.cli.show import output, print_json

if TYPE_CHECKING:
    from training.check.report import CheckReport

SUMMARY = "look for what would make a run fail or its adapter weak, without a GPU"
MARKS = {"error": "red", "warning": "yellow", "note": "cyan"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's file."""
    parser.add_argument("config", type=Path, metavar="RUN.toml", help="settings of the run")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 when nothing stands against the run, 1 when something does."""
    require("training", "adapters")
    from training.check.run import check

    report = check(args.config)
    print_json(report.record()) if args.json else _print(report)
    return 0 if report.passed else 1


def _print(report: "CheckReport") -> None:
    from rich.text import Text

    for found in report.findings:
        line = Text.assemble((f"{found.level:<8}", MARKS[found.level]), found.text)
        output().print(line)
    counts = {level: sum(1 for _ in report.of(level)) for level in ("error", "warning")}
    verdict = "ready to train" if report.passed else "not ready to train"
    output().print(Text(f"{verdict}: {counts['error']} errors, {counts['warning']} warnings"))
