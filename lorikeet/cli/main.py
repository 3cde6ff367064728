"""`lorikeet COMMAND ...`: finds the command, runs it, turns errors into sentences and exit codes.

Exit codes: 0 done, 1 the server or the run reported a failure, 2 wrong usage, 130 interrupted.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import cast

from lorikeet import __version__
from lorikeet.cli import (
    adapters,
    audit,
    demo,
    extract,
    generate,
    grants,
    keys,
    loadtest,
    merge,
    publish,
    serve,
    skills,
    train,
    truncate,
)
from lorikeet.cli.command import Command, UsageError
from lorikeet.cli.sentences import sentence

COMMANDS: dict[str, Command] = {
    "serve": serve,
    "generate": generate,
    "adapters": adapters,
    "audit": audit,
    "grants": grants,
    "keys": keys,
    "train": train,
    "publish": publish,
    "merge": merge,
    "extract": extract,
    "truncate": truncate,
    "demo": demo,
    "skills": skills,
    "loadtest": loadtest,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; never lets an error through as a traceback."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _outcome(arguments)
        # Here, so that a reader that went away is noticed now and not by the interpreter at exit.
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _discard_stdout()
        return 0


def _outcome(arguments: list[str]) -> int:
    try:
        parser = _top_parser()
        if not arguments:
            parser.print_help(sys.stderr)
            return 2
        chosen = parser.parse_args(arguments)
        return _run(chosen.command, COMMANDS[chosen.command], chosen.arguments)
    except SystemExit as stop:
        # argparse leaves this way, after it has printed help or what is wrong.
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 (the last stop before the user: a sentence, whatever it is)
        if "--debug" in arguments:
            traceback.print_exc()
        print(f"lorikeet: {sentence(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.SUMMARY}" for name, command in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="lorikeet",
        usage="lorikeet COMMAND [ARGUMENTS]",
        description="Hundreds of LoRA adapters over one base model, behind one gRPC address.",
        epilog="commands:\n" + "\n".join(lines) + "\n\nlorikeet COMMAND --help tells more.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"lorikeet {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    return parser


def _run(name: str, command: Command, arguments: list[str]) -> int:
    word, inner = next(iter(arguments), ""), getattr(command, "SUBCOMMANDS", {})
    if word in inner:
        return _run(f"{name} {word}", cast(Command, import_module(inner[word])), arguments[1:])
    parser = argparse.ArgumentParser(
        prog=f"lorikeet {name}", description=command.SUMMARY + ".", allow_abbrev=False
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))


def _discard_stdout() -> None:
    # The interpreter flushes stdout once more at exit, which must not fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
