"""`lorikeet train --processes`: one run by several processes of this machine, one for each GPU."""

import argparse
import os

from lorikeet.cli.command import UsageError

SHARDINGS = ("ddp", "fsdp2", "zero3")


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """How many processes, and what they share out beside the rows."""
    parser.add_argument("--processes", type=int, metavar="N", help="train with N processes, one for each GPU")
    parser.add_argument(
        "--sharding",
        choices=SHARDINGS,
        help="with --processes: every process has all weights (ddp, the default), or its share of them",
    )


def is_first() -> bool:
    """Whether this process speaks for the run; those that torchrun starts know their ranks."""
    return os.environ.get("RANK", "0") == "0"


def launch(args: argparse.Namespace) -> bool:
    """Trains in as many processes as asked for and returns True; False if none were asked for."""
    if args.processes is None:
        if args.sharding:
            raise UsageError("--sharding needs --processes")
        return False
    if args.processes < 1:
        raise UsageError("--processes must be at least 1")
    from training.distributed.launch import launch as start

    start(args.sharding or "ddp", args.processes, "lorikeet.cli", ["train", str(args.config)])
    return True
