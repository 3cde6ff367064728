"""The actions of one command, each with a parser and what it does."""

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from lorikeet.cli.connect import add_target

if TYPE_CHECKING:
    from lorikeet.client import Client

Actions: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_action(
    actions: Actions, name: str, text: str, do: "Callable[[Client, argparse.Namespace], int]"
) -> argparse.ArgumentParser:
    """A parser of its own, which leaves `do` in the arguments."""
    parser = actions.add_parser(name, help=text, description=text + ".", allow_abbrev=False)
    parser.set_defaults(do=do)
    # Accepted behind the action as well; SUPPRESS keeps it from undoing the one in front.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add_target(parser)
    return parser


def add_id(parser: argparse.ArgumentParser) -> None:
    """Which adapter."""
    parser.add_argument("id", metavar="ID", help="`name`, `name@3` or `name@alias`")
