"""`lorikeet merge`: adapters into their base, and the proof that the result is them."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli.command import UsageError
from lorikeet.cli.flags import add_flags, read_flags
from lorikeet.cli.guard import require
from lorikeet.cli.show import print_table, step_progress

if TYPE_CHECKING:
    from training.merge_report import MergeReport

SUMMARY = "merge adapters into their base, checked against the unmerged ones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The base, the adapters, and one flag for each field of MergeConfig."""
    require("training", "adapters")
    from training.merge_config import MergeConfig

    parser.add_argument("base", metavar="BASE", help="folder or hub id of the base")
    parser.add_argument("adapters", nargs="+", type=Path, metavar="ADAPTER", help="PEFT folder")
    add_flags(parser, MergeConfig)


def run(args: argparse.Namespace) -> int:
    """0 once the folder is there and has passed; prints the figures that decided."""
    require("server", "training", "adapters")
    from server.model.loader import find_folder
    from training.merge import run as merge
    from training.merge_config import MergeConfig, problems_of

    config = read_flags(MergeConfig, args)
    if problems := problems_of(config, len(args.adapters)):
        raise UsageError("; ".join(problems))
    with step_progress("merging") as progress:
        report = merge(find_folder(args.base), args.adapters, config, progress)
    _print(report)
    print(config.out)
    return 0


def _print(report: "MergeReport") -> None:
    gate = report.gate
    if gate is None:
        print("not compared with the unmerged adapter (--no-gate)", file=sys.stderr)
        return
    rows = [
        ("KL from base + adapter, nats", f"{gate.kl_merged:.3g}", f"{gate.kl_base:.3g}"),
        ("same likeliest token", f"{gate.top1_merged:.1%}", f"{gate.top1_base:.1%}"),
    ]
    if gate.loss_live is not None:
        title = f"held-out loss, {gate.loss_live:.4f} with the adapter"
        rows.append((title, f"{gate.loss_merged:.4f}", f"{gate.loss_base:.4f}"))
    title = f"{len(report.linears)} linears changed; {gate.recovered:.2%} of the adapter's effect is left"
    print_table(("", "merged", "base alone"), rows, title)
    for loss in report.losses:
        print(f"allowed: {loss}")
