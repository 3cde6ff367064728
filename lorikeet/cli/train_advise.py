"""`lorikeet train advise`: from what somebody has to the settings of a run, with reasons."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli.command import UsageError
from lorikeet.cli.flags import add_flags, read_flags
from lorikeet.cli.guard import require
from lorikeet.cli.show import output, print_json, print_table

if TYPE_CHECKING:
    from training.advise.advice import Advice

SUMMARY = "choose method, rank, memory plan and way of serving for what you have, with reasons"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One flag for each field of Situation."""
    require("training", "adapters")
    from training.advise.situation import Situation

    add_flags(parser, Situation)
    parser.add_argument(
        "--write", type=Path, metavar="RUN.toml", help="write the advice as settings of a run"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Prints the advice and writes it if asked to; a file that is there already stays."""
    from training.advise.advice import advise
    from training.advise.situation import Situation, situation_problems
    from training.advise.starter import starter
    from training.quiet import quiet

    situation = read_flags(Situation, args)
    if problems := list(situation_problems(situation)):
        raise UsageError("; ".join(problems))
    if args.write and args.write.exists():
        raise UsageError(f"{args.write} is there already: name another file or move it away")
    with quiet():
        advice = advise(situation)
    print_json(advice.record()) if args.json else _print(advice)
    if args.write:
        args.write.write_text(starter(advice, situation, args.write.parent), encoding="utf-8")
    return 0


def _print(advice: "Advice") -> None:
    rows = [(choice.option, _shown(choice.value), choice.why, choice.rule) for choice in advice.choices]
    print_table(("option", "value", "because", "rule"), rows)
    if advice.peak is not None:
        output().print(f"memory of a step: about {advice.peak:.1f} GiB")
    if advice.learning_rate is not None:
        output().print(f"learning rate by formula: {advice.learning_rate:g}")
    for caution in advice.cautions:
        output().print(f"caution: {caution}")


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
