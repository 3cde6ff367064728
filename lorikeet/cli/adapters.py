"""`lorikeet adapters`: everything about adapters and their aliases."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli import aliases
from lorikeet.cli.actions import Actions, add_action, add_id
from lorikeet.cli.command import UsageError
from lorikeet.cli.connect import connect
from lorikeet.cli.show import (
    byte_progress,
    card_record,
    print_card,
    print_json,
    print_status,
    print_version,
    print_versions,
)

if TYPE_CHECKING:
    from lorikeet.client import Client

SUMMARY = "upload, list, show, watch, place and delete adapters, and move aliases"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser for each action."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _add_versions(actions)
    _add_placing(actions)
    aliases.add_arguments(actions)


def run(args: argparse.Namespace) -> int:
    """Does the chosen action."""
    with connect(args) as client:
        return int(args.do(client, args))


def _add_versions(actions: Actions) -> None:
    upload = add_action(actions, "upload", "store a PEFT folder as the next version of a name", _upload)
    upload.add_argument("folder", type=Path, metavar="DIR", help="holds config and safetensors weights")
    upload.add_argument("--name", required=True, help="name to store it under")
    upload.add_argument(
        "--allow-base-mismatch", action="store_true", help="take it though it was trained over another base"
    )
    listing = add_action(actions, "list", "list every version", _list)
    show = add_action(actions, "show", "show one version with its card and metrics", _show)
    add_id(show)
    watch = add_action(actions, "watch", "print the states of a version as they change", _watch)
    add_id(watch)
    watch.add_argument("--until", metavar="STATE", help="stop at this state, such as on_device")
    for command in (upload, listing, show, watch):
        command.add_argument("--json", action="store_true", help="print JSON")
    delete = add_action(actions, "delete", "delete one version, or every version of a name", _delete)
    delete.add_argument("id", metavar="ID", help="`name@3`, or `name` for all its versions")
    delete.add_argument("--yes", action="store_true", help="do not ask")
    delete.add_argument("--force", action="store_true", help="end running requests, take it from aliases")
    delete.add_argument(
        "--wait", type=float, default=0.0, metavar="SECONDS", help="wait for running requests to end"
    )


def _add_placing(actions: Actions) -> None:
    warm = add_action(actions, "warm", "bring a version to the device before it is asked for", _warm)
    pin = add_action(actions, "pin", "keep a version on the device, over restarts too", _pin)
    unpin = add_action(actions, "unpin", "let a version be put out again", _unpin)
    for command in (warm, pin, unpin):
        add_id(command)
    for command in (warm, pin):
        command.add_argument(
            "--tier", choices=("host", "device"), default="device", help="where to (default: device)"
        )


def _upload(client: "Client", args: argparse.Namespace) -> int:
    with byte_progress(f"uploading {args.name}") as progress:
        allows = args.allow_base_mismatch
        stored = client.adapters.upload(args.folder, args.name, progress, allow_base_mismatch=allows)
    print_json(stored) if args.json else print_version(stored)
    return 0


def _list(client: "Client", args: argparse.Namespace) -> int:
    versions = list(client.adapters.list())
    print_json(versions) if args.json else print_versions(versions)
    return 0


def _show(client: "Client", args: argparse.Namespace) -> int:
    card = client.adapters.card(args.id)
    print_json(card_record(card)) if args.json else print_card(card)
    return 0


def _watch(client: "Client", args: argparse.Namespace) -> int:
    for status in client.adapters.watch(args.id):
        print_json(status) if args.json else print_status(status)
        sys.stdout.flush()
        if status.state == args.until:
            return 0
    return 0 if args.until is None else 1


def _warm(client: "Client", args: argparse.Namespace) -> int:
    print(f"{client.adapters.warm(args.id, args.tier).id} is on the {args.tier}")
    return 0


def _pin(client: "Client", args: argparse.Namespace) -> int:
    print(f"{client.adapters.pin(args.id, args.tier).id} stays on the {args.tier}")
    return 0


def _unpin(client: "Client", args: argparse.Namespace) -> int:
    print(f"{client.adapters.unpin(args.id).id} may be put out")
    return 0


def _delete(client: "Client", args: argparse.Namespace) -> int:
    if not (args.yes or _confirmed(args.id)):
        print("nothing deleted", file=sys.stderr)
        return 1
    for version in client.adapters.delete(args.id, force=args.force, wait=args.wait):
        print(f"deleted {version.id}")
    return 0


def _confirmed(adapter_id: str) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("deleting without a terminal to ask on needs --yes")
    what = adapter_id if "@" in adapter_id else f"every version of {adapter_id}"
    print(f"Delete {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
