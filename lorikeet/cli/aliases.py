"""`lorikeet adapters alias`, `aliases`, `rollback` and `unalias`."""

import argparse
from typing import TYPE_CHECKING

from lorikeet.cli.actions import Actions, add_action
from lorikeet.cli.command import UsageError
from lorikeet.cli.show import print_json, print_table

if TYPE_CHECKING:
    from lorikeet.client import Client
    from lorikeet.lifecycle import Alias


def add_arguments(actions: Actions) -> None:
    """One parser for each action on aliases."""
    move = add_action(actions, "alias", "point an alias at versions, or show where it points", _alias)
    move.add_argument("id", metavar="NAME@ALIAS", help="such as legal@prod")
    move.add_argument(
        "shares", nargs="*", metavar="VERSION[=WEIGHT]", help="such as 3, or 3=90 4=10; without any: show it"
    )
    listing = add_action(actions, "aliases", "list every alias of a name", _aliases)
    listing.add_argument("name", metavar="NAME")
    back = add_action(actions, "rollback", "bring an alias's previous state back", _rollback)
    gone = add_action(actions, "unalias", "take an alias away", _unalias)
    for command in (back, gone):
        command.add_argument("id", metavar="NAME@ALIAS", help="such as legal@prod")
    for command in (move, listing, back):
        command.add_argument("--json", action="store_true", help="print JSON, with the history")
    for command in (move, back, gone):
        command.add_argument("--etag", help="only if the alias is still in this state; '' wants none yet")


def _alias(client: "Client", args: argparse.Namespace) -> int:
    name, alias = _split(args.id)
    if not args.shares:
        return _print(client.adapters.get_alias(name, alias), args)
    shares = dict(map(_share, args.shares))
    return _print(client.adapters.set_alias(name, alias, shares, etag=args.etag), args)


def _aliases(client: "Client", args: argparse.Namespace) -> int:
    found = list(client.adapters.aliases(args.name))
    if args.json:
        print_json(found)
    else:
        print_table(("alias", "versions", "etag"), [(a.id, _shown(a.shares), a.etag) for a in found])
    return 0


def _rollback(client: "Client", args: argparse.Namespace) -> int:
    return _print(client.adapters.rollback_alias(*_split(args.id), etag=args.etag), args)


def _unalias(client: "Client", args: argparse.Namespace) -> int:
    client.adapters.delete_alias(*_split(args.id), etag=args.etag)
    print(f"{args.id} is gone")
    return 0


def _print(alias: "Alias", args: argparse.Namespace) -> int:
    print_json(alias) if args.json else print(f"{alias.id} -> {_shown(alias.shares)} (etag {alias.etag})")
    return 0


def _shown(shares: dict[int, int]) -> str:
    """`@3`, or `@3 90 %, @4 10 %`."""
    total = sum(shares.values())
    if len(shares) == 1:
        return f"@{next(iter(shares))}"
    return ", ".join(f"@{version} {100 * weight / total:g} %" for version, weight in shares.items())


def _split(text: str) -> tuple[str, str]:
    name, at, alias = text.partition("@")
    if not (name and at and alias):
        raise UsageError(f"{text!r} is no alias; write NAME@ALIAS, such as legal@prod")
    return name, alias


def _share(text: str) -> tuple[int, int]:
    version, _, weight = text.partition("=")
    try:
        return int(version), int(weight or 1)
    except ValueError as error:
        raise UsageError(f"{text!r} is no version with a weight; write 3 or 3=90") from error
