"""`lorikeet grants`: which tenants may use whose adapters."""

import argparse
from typing import TYPE_CHECKING

from lorikeet.cli.connect import add_target, connect
from lorikeet.cli.show import print_table

if TYPE_CHECKING:
    from lorikeet.client import Client

SUMMARY = "share adapters with other tenants"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser for each action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, text in (
        ("share", "let a tenant use every version of a name"),
        ("unshare", "take that back"),
        ("list", "list what was given and received"),
    ):
        action = actions.add_parser(name, help=text, description=text + ".", allow_abbrev=False)
        action.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        add_target(action)
        if name != "list":
            action.add_argument("name", metavar="NAME", help="one of your own names, without a version")
            action.add_argument("tenant", metavar="TENANT", help="who may use it, as OWNER/NAME")


def run(args: argparse.Namespace) -> int:
    """Does the chosen action."""
    with connect(args) as client:
        {"share": _share, "unshare": _unshare, "list": _list}[args.action](client, args)
    return 0


def _share(client: "Client", args: argparse.Namespace) -> None:
    grant = client.grants.share(args.name, args.tenant)
    print(f"{grant.tenant} may use {grant.adapter}")


def _unshare(client: "Client", args: argparse.Namespace) -> None:
    client.grants.unshare(args.name, args.tenant)
    print(f"{args.tenant} may not use {args.name}")


def _list(client: "Client", args: argparse.Namespace) -> None:
    rows = [
        (grant.adapter, grant.tenant, grant.create_time.strftime("%Y-%m-%d %H:%M"))
        for grant in client.grants.list()
    ]
    print_table(("adapter", "shared with", "since"), rows)
