"""`lorikeet extract`: the difference of a fine-tuned model to its base, as an adapter."""

import argparse
import sys

from lorikeet.cli.cutting import add_cut, check_cut, print_cut
from lorikeet.cli.guard import require
from lorikeet.cli.show import step_progress

SUMMARY = "make an adapter of the difference between a fine-tuned model and its base"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two models, and how much of their difference to keep."""
    parser.add_argument("base", metavar="BASE", help="folder or hub id of the base")
    parser.add_argument("tuned", metavar="TUNED", help="folder or hub id of the fine-tuned model")
    add_cut(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the adapter and prints what it lost."""
    check_cut(args)
    require("server", "adapters")
    from adapters.merge.checkpoint import Checkpoint
    from adapters.merge.factors import extract, write_adapter
    from adapters.merge.folder import draft
    from server.model.loader import find_folder

    base, tuned = Checkpoint(find_folder(args.base)), Checkpoint(find_folder(args.tuned))
    with draft(args.out, args.overwrite) as folder:
        with step_progress("extracting") as progress:
            found = extract(base, tuned, args.rank, args.energy, progress)
        write_adapter(folder, found.pairs, args.base, found.residuals)
    print_cut("extracted", [pair.rank for pair in found.pairs.values()], found.residuals)
    if found.left_out:
        print(
            f"left out, as adapters of this kind change linears alone: {', '.join(found.left_out)}",
            file=sys.stderr,
        )
    print(args.out)
    return 0
