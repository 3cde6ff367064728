"""`lorikeet keys`: who may call a server, in a file that the server reads again whenever it changes."""

import argparse
import json
import os
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli.command import CommandError, UsageError
from lorikeet.cli.guard import require
from lorikeet.cli.show import print_table

if TYPE_CHECKING:
    from server.identity.keys import Key, KeyFile
    from server.identity.token import Token

SUMMARY = "create, list, rotate and revoke the API keys of a server"
FILE_VARIABLE = "LORIKEET_KEYS"
DEFAULT_FILE = ".lorikeet/keys.json"
COLUMNS = ("id", "tenant", "scopes", "state", "expires", "note")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser for each action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = _add(actions, "create", "make a key and print it, this once")
    create.add_argument("--tenant", required=True, help="whose adapters and quotas it stands for")
    create.add_argument(
        "--scopes",
        default="infer,adapter.read,adapter.write",
        metavar="A,B",
        help="what it may do: infer, adapter.read, adapter.write, admin (default: all but admin)",
    )
    create.add_argument("--expires-in", metavar="90d", help="until then: a number and s, m, h or d")
    create.add_argument("--note", default="", help="for your own memory")
    _add(actions, "list", "list every key").add_argument("--json", action="store_true", help="print JSON")
    rotate = _add(actions, "rotate", "give a key a second secret and print it, this once")
    rotate.add_argument("id", metavar="ID")
    rotate.add_argument("--overlap", default="1d", metavar="1d", help="the old secret's remaining time")
    _add(actions, "revoke", "end a key at once").add_argument("id", metavar="ID")


def run(args: argparse.Namespace) -> int:
    """Does the chosen action."""
    require("server", "adapters")
    from server.identity.keys import KeyFile, NoSuchKey

    action = {"create": _create, "list": _list, "rotate": _rotate, "revoke": _revoke}[args.action]
    try:
        action(KeyFile(args.file), args)
    except NoSuchKey as error:
        raise CommandError(str(error)) from error
    except ValueError as error:
        raise UsageError(str(error)) from error
    return 0


def _add(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text + ".", allow_abbrev=False)
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.add_argument(
        "--file",
        type=Path,
        default=Path(os.environ.get(FILE_VARIABLE) or DEFAULT_FILE),
        metavar="PATH",
        help=f"the server's --keys (default: ${FILE_VARIABLE}, else {DEFAULT_FILE})",
    )
    return parser


def _create(file: "KeyFile", args: argparse.Namespace) -> None:
    seconds = None if args.expires_in is None else _seconds(args.expires_in)
    _hand_over(*file.create(args.tenant, args.scopes.split(","), seconds, args.note))


def _rotate(file: "KeyFile", args: argparse.Namespace) -> None:
    _hand_over(*file.rotate(args.id, _seconds(args.overlap)))


def _revoke(file: "KeyFile", args: argparse.Namespace) -> None:
    print(f"revoked {file.revoke(args.id).id}")


def _list(file: "KeyFile", args: argparse.Namespace) -> None:
    rows = [_row(key) for key in file.read()]
    if args.json:
        print(json.dumps(rows, ensure_ascii=False, indent=2))
    else:
        print_table(COLUMNS, [[row[column] for column in COLUMNS] for row in rows])


def _row(key: "Key") -> dict[str, str]:
    """What may be shown of a key."""
    return {
        "id": key.id,
        "tenant": key.tenant,
        "scopes": ",".join(key.scopes),
        "state": key.state(time.time()),
        "expires": _date(key.expires_at),
        "note": key.note,
    }


def _hand_over(key: "Key", token: "Token") -> None:
    print(f"key {key.id} of {key.tenant} for {', '.join(key.scopes)}; shown only now:", file=sys.stderr)
    print(token.text)


def _seconds(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if match is None:
        raise UsageError(f"{text!r} is no length of time; write a number and s, m, h or d, such as 90d")
    return int(match[1]) * SECONDS[match[2]]


def _date(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
