"""`lorikeet publish`: a trained adapter through the gate to a live alias."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli.command import UsageError
from lorikeet.cli.connect import add_credentials, connect_to
from lorikeet.cli.flags import add_flags, read_flags
from lorikeet.cli.guard import require
from lorikeet.cli.show import print_table

if TYPE_CHECKING:
    from training.publish.plan import PublishPlan
    from training.publish.report import PublishReport

SUMMARY = "judge a trained adapter, upload it, compare it with its trainer, and move an alias to it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, the server, and how good is good enough."""
    require("training", "adapters")
    from training.publish.plan import PublishPlan

    parser.add_argument("folder", type=Path, metavar="DIR", help="what `lorikeet train` has left")
    parser.add_argument("--to", required=True, metavar="HOST:PORT", help="the server")
    parser.add_argument("--base", default="", help="base it was trained on, where the folder does not say")
    parser.add_argument(
        "--eval", type=Path, metavar="FILE.jsonl", help="held-out rows instead of those of training"
    )
    add_flags(parser, PublishPlan)
    add_credentials(parser)


def run(args: argparse.Namespace) -> int:
    """0 if the alias has moved, 1 if the gate refused it."""
    from training.errors import InvalidConfig
    from training.publish.plan import PublishPlan

    try:
        plan = read_flags(PublishPlan, args)
    except InvalidConfig as error:
        raise UsageError(str(error)) from error
    return publish_folder(args.folder, args.to, args, plan, args.base, args.eval)


def publish_folder(
    folder: Path,
    target: str,
    args: argparse.Namespace,
    plan: "PublishPlan",
    base: str = "",
    rows: Path | None = None,
) -> int:
    """The gate with its bars and its verdict on the terminal, and the exit code. args: the credentials."""
    from rich.console import Console

    from training.errors import InvalidConfig
    from training.progress import bars
    from training.publish.gate import publish
    from training.publish.report import REPORT_FILE
    from training.publish.trained import open_trained

    try:
        trained = open_trained(folder, base=base, rows=rows)
        with connect_to(target, args) as client, bars(Console(stderr=True)) as report:
            outcome = publish(trained, client, plan, report)
    except InvalidConfig as error:
        raise UsageError(str(error)) from error
    print_outcome(outcome)
    print(f"all figures: {folder / REPORT_FILE}", file=sys.stderr)
    return 0 if outcome.published else 1


def print_outcome(outcome: "PublishReport") -> None:
    """A table of who did how well, the parity, and what became of it."""
    stood = [who for who in (outcome.base, outcome.current, outcome.candidate) if who is not None]
    rows = [
        (who.who, "-" if who.loss is None else f"{who.loss:.4f}", f"{who.accuracy:.1%}", f"{who.f1:.3f}")
        for who in stood
    ]
    print_table(("", "held-out loss", "answers right", "F1"), rows)
    if outcome.parity:
        parity = outcome.parity
        print(
            f"server and trainer differ by at most {parity.largest:.2g} nats over {parity.num_values} log "
            f"probabilities (tolerated: {parity.tolerance:g}; the adapter makes up to {parity.effect:.2g})"
        )
    if outcome.published:
        shares = ", ".join(f"@{version}: {weight}" for version, weight in outcome.shares_after.items())
        print(f"{outcome.name}@{outcome.alias} is {outcome.version} ({shares})")
    for reason in outcome.reasons:
        print(f"refused: {reason}")
