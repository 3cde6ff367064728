"""`lorikeet truncate`: an adapter of a lower rank, the nearest there is."""

import argparse
from pathlib import Path

from lorikeet.cli.cutting import add_cut, check_cut, print_cut
from lorikeet.cli.guard import require

SUMMARY = "cut an adapter to a lower rank"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The adapter, and how much of it to keep."""
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="PEFT folder of a LoRA")
    add_cut(parser)


def run(args: argparse.Namespace) -> int:
    """Writes the adapter and prints what it lost."""
    check_cut(args)
    require("adapters")
    from adapters.aggregate import aggregate
    from adapters.merge.factors import write_adapter
    from adapters.merge.folder import draft
    from adapters.merge.sources import read_pairs

    pairs, base_name = read_pairs(args.adapter)
    cut = aggregate([pairs], [1.0], rank=args.rank, energy=args.energy)
    with draft(args.out, args.overwrite) as folder:
        write_adapter(folder, cut.pairs, base_name, cut.errors)
    print_cut("cut", [pair.rank for pair in cut.pairs.values()], cut.errors)
    print(args.out)
    return 0
