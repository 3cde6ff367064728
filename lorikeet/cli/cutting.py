"""What the two commands that write adapters share: how much to keep, and where to write."""

import argparse
from pathlib import Path

from lorikeet.cli.command import UsageError


def add_cut(parser: argparse.ArgumentParser) -> None:
    """--rank, --energy, --out and --overwrite."""
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder that becomes the adapter"
    )
    parser.add_argument("--rank", type=int, metavar="N", help="highest rank of a linear's pair")
    parser.add_argument(
        "--energy", type=float, metavar="X", help="least share of each squared norm to keep, as 0.99"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace what stands in the output folder")


def check_cut(args: argparse.Namespace) -> None:
    """Raises UsageError unless they say how much to keep."""
    if args.rank is None and args.energy is None:
        raise UsageError("say how much to keep: --rank N, --energy X, or both")
    if args.rank is not None and args.rank < 1:
        raise UsageError("--rank must be at least 1")
    if args.energy is not None and not 0 < args.energy <= 1:
        raise UsageError("--energy must be above 0 and at most 1")


def print_cut(what: str, ranks: list[int], residuals: dict[str, float]) -> None:
    """One line: how large the result is, and how far off at worst."""
    worst = max(residuals, key=residuals.__getitem__)
    print(
        f"{what}: {len(ranks)} linears of rank {min(ranks)} to {max(ranks)}, "
        f"at most {residuals[worst]:.3g} of an update lost ({worst})"
    )
