"""`lorikeet train together`: several runs at once on one base."""

import argparse
import sys
from pathlib import Path

from lorikeet.cli.guard import require
from lorikeet.cli.show import print_table
from lorikeet.cli.train import read_settings
from lorikeet.cli.train_sweep import add_sharing

SUMMARY = "train several runs at once on the base that they have in common"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The runs' files, and how they share the base."""
    parser.add_argument("configs", type=Path, nargs="+", metavar="RUN.toml", help="settings of each run")
    add_sharing(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the folder of each adapter; 1 if a run failed, which the others do not notice."""
    require("server", "training", "adapters")
    from rich.console import Console

    from training.concurrent.session import Sharing, train_together
    from training.progress import bars

    configs = [read_settings(path) for path in args.configs]
    with bars(Console(stderr=True)) as report:
        outcomes = train_together(configs, Sharing(args.exact, args.at_once), report)
    done = [each.result for each in outcomes if each.result]
    rows = [
        (str(each.output), str(each.num_steps), f"{each.train_loss:.4f}", _figure(each.eval_loss))
        for each in done
    ]
    print_table(("adapter", "steps", "train loss", "held-out loss"), rows)
    for each in outcomes:
        if each.error:
            print(f"{each.name}: {each.error}", file=sys.stderr)
    return 0 if len(done) == len(outcomes) else 1


def _figure(loss: float | None) -> str:
    return "none held out" if loss is None else f"{loss:.4f}"
