"""Flags that every command which talks to a server has, and the client they make."""

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorikeet.client import Client

DEFAULT_TARGET = "localhost:50051"
TARGET_VARIABLE = "LORIKEET_TARGET"


def add_target(parser: argparse.ArgumentParser) -> None:
    """--target and --timeout."""
    parser.add_argument(
        "--target",
        default=os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET,
        metavar="HOST:PORT",
        help=f"the server (default: ${TARGET_VARIABLE}, else {DEFAULT_TARGET})",
    )
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="give up a call after this long (default: never)"
    )


def connect(args: argparse.Namespace) -> "Client":
    """A client for the chosen server."""
    # Not at the top: `lorikeet --help` and `lorikeet serve` need no channel.
    from lorikeet.client import Client

    return Client(args.target, timeout=args.timeout)
