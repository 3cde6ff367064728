"""`lorikeet skills`: three skills from raw JSONL to live aliases, each through the gate."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli.connect import add_credentials, connect_to
from lorikeet.cli.guard import require
from lorikeet.cli.show import print_table
from lorikeet.local import serving

if TYPE_CHECKING:
    from lorikeet.client import Client
    from training.publish.report import PublishReport

SUMMARY = "train three small skills and publish each through the gate to a live alias"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where base and skills lie, which server, and how large all of it is."""
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(".lorikeet/skills"),
        metavar="DIR",
        help="holds base, skills and server log (default: %(default)s)",
    )
    parser.add_argument(
        "--to", metavar="HOST:PORT", help="a server over the base in --root (default: one for this run alone)"
    )
    parser.add_argument(
        "--tiny", action="store_true", help="a base and rows so small that it takes seconds, to try the way"
    )
    add_credentials(parser)


def run(args: argparse.Namespace) -> int:
    """0 if every skill is live."""
    require("server", "adapters", "training")
    from rich.console import Console

    from training.demo.base import build_base
    from training.demo.skills import RECIPES
    from training.progress import bars
    from training.publish.skills import TINY_BASE, TINY_SKILLS, publish_skills

    with bars(Console(stderr=True)) as report:
        base = build_base(args.root / "base", report, TINY_BASE if args.tiny else None)
        with _server(args, base) as client:
            recipes = TINY_SKILLS if args.tiny else RECIPES
            outcomes = publish_skills(args.root, base, client, recipes, report)
    _print(outcomes)
    return 0 if all(outcome.published for outcome in outcomes) else 1


@contextmanager
def _server(args: argparse.Namespace, base: Path) -> Iterator["Client"]:
    if args.to:
        with connect_to(args.to, args) as client:
            yield client
        return
    with serving(base, args.root) as server, connect_to(server.target, args) as client:
        server.wait_ready(client)
        yield client


def _print(outcomes: Sequence["PublishReport"]) -> None:
    rows = []
    for outcome in outcomes:
        assert outcome.base is not None and outcome.candidate is not None, "the gate judges first"
        parity = f"{outcome.parity.largest:.1e}" if outcome.parity else "-"
        losses = (f"{outcome.base.loss:.3f}", f"{outcome.candidate.loss:.3f}")
        live = f"{outcome.name}@{outcome.alias} = {outcome.version}" if outcome.published else "refused"
        rows.append((outcome.name, *losses, f"{outcome.candidate.accuracy:.0%}", parity, live))
    print_table(("skill", "base's loss", "its loss", "answers right", "server - trainer", "live as"), rows)
    for outcome in outcomes:
        for reason in outcome.reasons:
            print(f"{outcome.name} refused: {reason}", file=sys.stderr)
