"""Flags that every command which talks to a server has, and the client they make."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorikeet.client import Client

DEFAULT_TARGET = "localhost:50051"


def add_target(parser: argparse.ArgumentParser) -> None:
    """--target and --timeout."""
    parser.add_argument(
        "--target", default=DEFAULT_TARGET, metavar="HOST:PORT", help="the server (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="give up a call after this long (default: never)"
    )


def connect(args: argparse.Namespace) -> "Client":
    """A client for the chosen server."""
    # Not at the top: `lorikeet --help` and `lorikeet serve` need no channel.
    from lorikeet.client import Client

    return Client(args.target, timeout=args.timeout)
