"""`lorikeet audit`: whether an audit log is what the server wrote."""

import argparse
from pathlib import Path

from lorikeet.cli.command import CommandError
from lorikeet.cli.guard import require

SUMMARY = "check an audit log"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One action so far: verify."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = actions.add_parser("verify", help="read the whole chain", allow_abbrev=False)
    verify.add_argument("folder", type=Path, metavar="DIR", help="such as .lorikeet/store/audit")
    verify.add_argument("--expect", metavar="HASH", help="a hash noted earlier that the log must still hold")
    verify.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Prints the number of lines and the last hash; exit code 1 names the first bad line."""
    require("server", "adapters")
    from server.audit import BrokenChain, verify

    if not args.folder.is_dir():
        raise CommandError(f"There is no folder {args.folder}.")
    try:
        head, found = verify(args.folder, args.expect)
    except BrokenChain as error:
        raise CommandError(f"the audit log was tampered with: {error}") from error
    if args.expect and not found:
        raise CommandError(f"the audit log no longer holds {args.expect}: its end was cut off")
    print(f"{head.seq} lines, unbroken; the last hash is {head.hash}")
    return 0
