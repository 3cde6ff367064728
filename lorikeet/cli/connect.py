"""Flags that every command which talks to a server has, and the client they make."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorikeet.client import Client

DEFAULT_TARGET = "localhost:50051"
TARGET_VARIABLE = "LORIKEET_TARGET"
KEY_VARIABLE = "LORIKEET_API_KEY"


def add_target(parser: argparse.ArgumentParser) -> None:
    """--target, --timeout and the credentials."""
    parser.add_argument(
        "--target",
        default=os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET,
        metavar="HOST:PORT",
        help=f"the server (default: ${TARGET_VARIABLE}, else {DEFAULT_TARGET})",
    )
    add_credentials(parser)
    parser.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="give up a call after this long (default: never)"
    )


def add_credentials(parser: argparse.ArgumentParser) -> None:
    """--api-key, --tls and --ca."""
    parser.add_argument(
        "--api-key",
        default=os.environ.get(KEY_VARIABLE) or None,
        metavar="KEY",
        help=f"who calls (default: ${KEY_VARIABLE}, which other users of this machine cannot read)",
    )
    parser.add_argument("--tls", action="store_true", help="encrypt, trusting the system's CAs")
    parser.add_argument("--ca", type=Path, metavar="FILE.pem", help="encrypt, trusting the CA in this file")


def connect(args: argparse.Namespace) -> "Client":
    """A client for the chosen server."""
    return connect_to(args.target, args, timeout=args.timeout)


def connect_to(target: str, args: argparse.Namespace, timeout: float | None = None) -> "Client":
    """A client for any server, with the chosen credentials."""
    # Not at the top: `lorikeet --help` and `lorikeet serve` need no channel.
    from lorikeet.client import Client

    return Client(target, timeout=timeout, api_key=args.api_key, tls=args.ca or args.tls)
