"""`lorikeet train`: one training run, and the adapter's way to a server; what else there is about runs."""

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from lorikeet.cli.command import UsageError
from lorikeet.cli.connect import add_credentials, connect_to
from lorikeet.cli.guard import require
from lorikeet.cli.show import byte_progress, print_version
from lorikeet.cli.train_launch import add_launch_arguments, is_first, launch

if TYPE_CHECKING:
    from training.config import TrainConfig

SUMMARY = "fine-tune an adapter as a TOML file says"
SUBCOMMANDS = {
    "check": "lorikeet.cli.train_check",
    "advise": "lorikeet.cli.train_advise",
    "sweep": "lorikeet.cli.train_sweep",
    "together": "lorikeet.cli.train_together",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The run's file, and where to register what comes out."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _listed_subcommands()
    parser.add_argument("config", type=Path, metavar="RUN.toml", help="settings of the run")
    parser.add_argument(
        "--register", metavar="HOST:PORT", help="upload the adapter to this server afterwards"
    )
    parser.add_argument("--name", help="name to store it under, with --register")
    parser.add_argument(
        "--alias", help="with --register: go through the gate of `lorikeet publish` to this alias"
    )
    add_launch_arguments(parser)
    add_credentials(parser)


def run(args: argparse.Namespace) -> int:
    """Trains, prints the adapter's folder, and uploads it if asked to."""
    if (args.register is None) is not (args.name is None):
        raise UsageError("--register and --name go together")
    if args.alias and not args.register:
        raise UsageError("--alias needs --register, the server whose alias it is")
    require("training", "adapters")
    settings = read_settings(args.config)
    if args.register:
        _require_adapter(settings)
    if args.alias:
        _require_held_out(settings)
    launched = launch(args)
    folder = settings.output if launched else _train(settings)
    if not is_first():
        return 0
    if not launched:
        print(folder)
    if args.alias:
        return _publish(folder, args)
    if args.register:
        _register(folder, args)
    return 0


def _listed_subcommands() -> str:
    width = max(map(len, SUBCOMMANDS))
    lines = [f"  {name:<{width}}  {import_module(path).SUMMARY}" for name, path in SUBCOMMANDS.items()]
    return "in place of RUN.toml:\n" + "\n".join(lines) + "\n\nlorikeet train NAME --help tells more."


def read_settings(path: Path) -> "TrainConfig":
    """The run's settings; a file with mistakes in it is wrong usage."""
    from training.configfile import read_config
    from training.errors import InvalidConfig

    try:
        return read_config(path)
    except InvalidConfig as error:
        raise UsageError(str(error)) from error


def _train(settings: "TrainConfig") -> Path:
    from rich.console import Console

    from training import tasks
    from training.progress import bars

    with bars(Console(stderr=True)) as report:
        result = tasks.run(settings, report)
    if not is_first():
        return result.output
    losses = f"train loss {result.train_loss:.4f}"
    if result.eval_loss is not None:
        losses += f", held-out loss {result.eval_loss:.4f}"
    print(f"{result.num_steps} steps in {result.seconds:.0f} s, {losses}", file=sys.stderr)
    return result.output


def _register(folder: Path, args: argparse.Namespace) -> None:
    with connect_to(args.register, args) as client, byte_progress(f"uploading {args.name}") as progress:
        stored = client.adapters.upload(folder, args.name, progress)
    print_version(stored)


def _require_adapter(settings: "TrainConfig") -> None:
    from training.methods.table import METHODS

    if settings.task == "reward":
        raise UsageError(
            "a reward model scores answers for other tasks and is not served: leave --register out"
        )
    if METHODS[settings.method].makes_model:
        raise UsageError(
            f"method {settings.method} makes a model, and --register uploads adapters: leave it out and "
            "serve the model by `lorikeet serve --base`, or make an adapter of it by `lorikeet extract`"
        )


def _require_held_out(settings: "TrainConfig") -> None:
    from training.preference.config import IMITATING

    if settings.task not in IMITATING:
        raise UsageError(
            f"--alias judges by answers, which rows of task {settings.task} do not have: register without, "
            "then `lorikeet publish` with --eval"
        )
    if not (settings.data.eval or settings.data.eval_fraction):
        raise UsageError("--alias judges on held-out rows: give data.eval or data.eval_fraction")


def _publish(folder: Path, args: argparse.Namespace) -> int:
    from lorikeet.cli.publish import publish_folder
    from training.publish.plan import PublishPlan

    return publish_folder(folder, args.register, args, PublishPlan(name=args.name, alias=args.alias))
