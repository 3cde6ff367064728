"""`lorikeet train check`: what can be known of a run before it takes a device."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli.guard import require
from lorikeet.cli.show import output, print_json

if TYPE_CHECKING:
    from training.check.data import Piece
    from training.check.report import CheckReport

SUMMARY = "look for what would make a run fail or its adapter weak, without a GPU"
MARKS = {"error": "red", "warning": "yellow", "note": "cyan"}
# Characters of a piece of a row.
SHOWN = 160


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's file, and what to hold it against."""
    parser.add_argument("config", type=Path, metavar="RUN.toml", help="settings of the run")
    parser.add_argument(
        "--device", choices=("gpu", "cpu"), default="gpu", help="where it will train (default: gpu)"
    )
    parser.add_argument("--memory", type=float, metavar="GIB", help="memory there; more is an error")
    parser.add_argument(
        "--most-lost",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of rows that may teach nothing (default: 0.1)",
    )
    parser.add_argument(
        "--show", type=int, default=3, metavar="N", help="rows to show with what is learned (default: 3)"
    )
    parser.add_argument(
        "--allow", action="append", default=[], metavar="RULE", help="an error by this name is a warning"
    )
    parser.add_argument(
        "--measure", action="store_true", help="take two steps here as well, and tell the memory they took"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 when nothing stands against the run, 1 when something does."""
    require("training", "adapters")
    from training.check.run import Wishes, check

    wishes = Wishes(
        gpu=args.device == "gpu",
        memory=args.memory,
        most_lost=args.most_lost,
        num_shown=args.show,
        allowed=tuple(args.allow),
        measures=args.measure,
    )
    report = check(args.config, wishes)
    print_json(report.record()) if args.json else _print(report)
    return 0 if report.passed else 1


def _print(report: "CheckReport") -> None:
    from rich.text import Text

    for name, section in report.sections.items():
        output().print(Text(name, style="bold"))
        for what, figure in section.facts():
            output().print(Text(f"  {what:<32}{figure}"))
        for row in getattr(section, "preview", []):
            output().print(_marked(row))
    for found in report.findings:
        mark = (f"{found.level} ({found.rule}) ", MARKS[found.level])
        output().print(Text.assemble(mark, found.text))
    counts = [f"{sum(1 for _ in report.of(level))} {level}s" for level in ("error", "warning")]
    verdict = "ready to train" if report.passed else "not ready to train"
    output().print(Text(f"{verdict}: {', '.join(counts)}"))


def _marked(row: "list[Piece]") -> object:
    """One row on one line; what is learned stands in brackets, so that it shows without colors too."""
    from rich.text import Text

    line = Text("  | ")
    for piece in row:
        text = _shortened(piece.text.replace("\n", "\\n"))
        line.append(f"⟦{text}⟧" if piece.learned else text, style="green" if piece.learned else "dim")
    return line


def _shortened(text: str) -> str:
    """Both ends of a long text: they show where learning begins and stops."""
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]} ... {text[-SHOWN // 2 :]}"
