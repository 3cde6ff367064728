"""`lorikeet serve`: a server in this process."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli.flags import add_flags, read_flags
from lorikeet.cli.guard import require

if TYPE_CHECKING:
    from server.config import ServerConfig

SUMMARY = "serve a base model and its adapters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for each field of ServerConfig, and the file that may hold them."""
    require("server", "adapters")
    from server.config import ServerConfig

    parser.add_argument(
        "--config", type=Path, metavar="FILE.toml", help="read settings from this file; flags win over it"
    )
    add_flags(parser, ServerConfig)


def run(args: argparse.Namespace) -> int:
    """Serves until the process is told to stop."""
    from server.config import ServerConfig

    _run_server(read_flags(ServerConfig, args, args.config))
    return 0


def _run_server(config: "ServerConfig") -> None:
    from server.app import run as run_app

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    run_app(config)
