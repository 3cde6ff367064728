"""`lorikeet adapters`: upload, list, show and delete."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli.command import UsageError
from lorikeet.cli.connect import add_target, connect
from lorikeet.cli.show import byte_progress, print_json, print_version, print_versions

if TYPE_CHECKING:
    from lorikeet.client import Client

SUMMARY = "upload, list, show and delete adapters"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser for each action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    upload = _add(actions, "upload", "store a PEFT folder as the next version of a name")
    upload.add_argument("folder", type=Path, metavar="DIR", help="holds config and safetensors weights")
    upload.add_argument("--name", required=True, help="name to store it under")
    listing = _add(actions, "list", "list every version")
    show = _add(actions, "show", "show one version")
    show.add_argument("id", metavar="ID", help="`name` or `name@3`")
    for command in (upload, listing, show):
        command.add_argument("--json", action="store_true", help="print JSON")
    delete = _add(actions, "delete", "delete one version, or every version of a name")
    delete.add_argument("id", metavar="ID", help="`name@3`, or `name` for all its versions")
    delete.add_argument("--yes", action="store_true", help="do not ask")


def run(args: argparse.Namespace) -> int:
    """Does the chosen action."""
    action = {"upload": _upload, "list": _list, "show": _show, "delete": _delete}[args.action]
    with connect(args) as client:
        return action(client, args)


def _add(
    actions: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=text + ".", allow_abbrev=False)
    # Accepted behind the action as well; SUPPRESS keeps it from undoing the one in front.
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    add_target(parser)
    return parser


def _upload(client: "Client", args: argparse.Namespace) -> int:
    with byte_progress(f"uploading {args.name}") as progress:
        stored = client.adapters.upload(args.folder, args.name, progress)
    print_json(stored) if args.json else print_version(stored)
    return 0


def _list(client: "Client", args: argparse.Namespace) -> int:
    versions = list(client.adapters.list())
    print_json(versions) if args.json else print_versions(versions)
    return 0


def _show(client: "Client", args: argparse.Namespace) -> int:
    version = client.adapters.get(args.id)
    print_json(version) if args.json else print_version(version)
    return 0


def _delete(client: "Client", args: argparse.Namespace) -> int:
    if not (args.yes or _confirmed(args.id)):
        print("nothing deleted", file=sys.stderr)
        return 1
    for version in client.adapters.delete(args.id):
        print(f"deleted {version.id}")
    return 0


def _confirmed(adapter_id: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("deleting without a terminal to ask on needs --yes")
    what = adapter_id if "@" in adapter_id else f"every version of {adapter_id}"
    print(f"Delete {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
