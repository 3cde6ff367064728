"""`lorikeet train sweep`: a grid of learning rates and ranks, trained at once on one base."""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from lorikeet.cli.guard import require
from lorikeet.cli.show import print_table
from lorikeet.cli.train import read_settings

if TYPE_CHECKING:
    from training.config import TrainConfig
    from training.sweep.sweep import Sweep

SUMMARY = "train a grid of learning rates and ranks at once and keep the best"

Number = TypeVar("Number", int, float)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's file, the grid, and how the points share the base."""
    parser.add_argument("config", type=Path, metavar="RUN.toml", help="settings that all points share")
    parser.add_argument(
        "--learning-rates", type=_listed(float), default=(), metavar="X,X", help="default: the run's own"
    )
    parser.add_argument(
        "--ranks", type=_listed(int), default=(), metavar="N,N", help="default: the run's own"
    )
    parser.add_argument(
        "--eval-fraction", type=float, metavar="X", help="share of the rows to hold out, if the run has none"
    )
    add_sharing(parser)
    parser.add_argument("--json", type=Path, metavar="PATH", help="file for all figures")


def add_sharing(parser: argparse.ArgumentParser) -> None:
    """How much adapters that train at once share."""
    parser.add_argument(
        "--exact",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="whether no bit of an adapter may depend on the others, which is slower (default: on a CPU)",
    )
    parser.add_argument(
        "--at-once", type=_count, metavar="N", help="adapters in training at once (default: all)"
    )


def run(args: argparse.Namespace) -> int:
    """Trains the grid, prints it best first, and the folder of the best."""
    require("server", "training", "adapters")
    from rich.console import Console

    from training.concurrent.session import Sharing
    from training.progress import bars
    from training.sweep.sweep import Grid, sweep

    config = _with_held_out(read_settings(args.config), args.eval_fraction)
    grid, sharing = Grid(args.learning_rates, args.ranks), Sharing(args.exact, args.at_once)
    with bars(Console(stderr=True)) as report:
        found = sweep(config, grid, sharing, report)
    _print(found)
    if args.json:
        text = json.dumps(dataclasses.asdict(found), indent=2, default=str)
        args.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _with_held_out(config: "TrainConfig", fraction: float | None) -> "TrainConfig":
    if fraction is None or config.data.eval or config.data.eval_fraction:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, eval_fraction=fraction))


def _print(found: "Sweep") -> None:
    rows = [
        (
            f"{trial.learning_rate:g}",
            str(trial.rank),
            _figure(trial.eval_loss),
            _figure(trial.train_loss),
            str(trial.num_steps),
            f"{trial.num_parameters:,}",
        )
        for trial in found.trials
    ]
    print_table(("learning rate", "rank", "held-out loss", "train loss", "steps", "parameters"), rows)
    for trial in found.trials:
        if trial.problem:
            print(f"rate {trial.learning_rate:g} rank {trial.rank}: {trial.problem}", file=sys.stderr)
    print(found.output)


def _figure(loss: float | None) -> str:
    return "failed" if loss is None else f"{loss:.4f}"


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1")
    return int(text)


def _listed(kind: Callable[[str], Number]) -> Callable[[str], tuple[Number, ...]]:
    def read(text: str) -> tuple[Number, ...]:
        numbers = tuple(kind(part) for part in text.split(","))
        if not all(number > 0 for number in numbers) or len(set(numbers)) < len(numbers):
            raise argparse.ArgumentTypeError(f"{text!r} must be different numbers above 0, with commas")
        return numbers

    return read
