"""`lorikeet loadtest`: measures a server under load, and steps, kernels and starts on this machine."""

import argparse
from importlib import import_module
from typing import Any, NamedTuple

from lorikeet.cli.flags import add_flags, read_flags
from lorikeet.cli.guard import require

SUMMARY = "measure a server under load, or steps, kernels and starts on this machine"


class Test(NamedTuple):
    """A function that takes the words in `places` and the record made from the flags."""

    run: str
    config: str
    help: str
    places: tuple[tuple[str, str], ...] = ()


TESTS = {
    "run": Test(
        "loadtests.scenario.run.run",
        "loadtests.scenario.options.RunOptions",
        "play a scenario against a server: pass or fail",
        (("scenario", "its name, or a TOML file (`lorikeet loadtest scenarios` lists them)"),),
    ),
    "all": Test(
        "loadtests.scenario.all.run",
        "loadtests.scenario.options.AllOptions",
        "play all scenarios, one after another, against as few servers as they need",
    ),
    "scenarios": Test(
        "loadtests.scenario.list.run",
        "loadtests.scenario.list.ListOptions",
        "list the scenarios that there are",
    ),
    "capacity": Test(
        "loadtests.scenario.capacity.run",
        "loadtests.scenario.capacity.CapacityOptions",
        "find the highest rate at which a scenario keeps its objective",
        (("scenario", "its name, or a TOML file"),),
    ),
    "plan": Test(
        "loadtests.plan.command.run",
        "loadtests.plan.options.PlanOptions",
        "estimate from measured steps whether a load fits a device",
    ),
    "report": Test(
        "loadtests.report.commands.report",
        "loadtests.report.commands.ReportOptions",
        "show a run again from its raw results",
        (("file", "what `--out` wrote"),),
    ),
    "compare": Test(
        "loadtests.report.commands.compare_runs",
        "loadtests.report.commands.ReportOptions",
        "hold two runs of one load against each other: exit code 1 if something is worse",
        (("before", "raw results of the first run"), ("after", "of the second")),
    ),
    "selftest": Test(
        "loadtests.selftest.run",
        "loadtests.overhead.SelfTestOptions",
        "measure the driver itself against a server whose delays are known",
    ),
    "step": Test(
        "loadtests.step.run",
        "loadtests.step_config.StepConfig",
        "time of a decode step for each batch, base and mix of adapters",
    ),
    "thrash": Test(
        "loadtests.thrash.command.run",
        "loadtests.thrash.config.ThrashConfig",
        "a server with more adapters than its device has room for",
    ),
    "kernels": Test(
        "loadtests.kernels.run",
        "loadtests.kernels.KernelConfig",
        "time of each kernel beside bitsandbytes, cuBLAS and the floor",
    ),
    "training": Test(
        "loadtests.concurrent.run",
        "loadtests.concurrent_config.TrainingConfig",
        "tokens a second of adapters trained at once, and of one after another",
    ),
    "claims": Test(
        "loadtests.claims.command.run",
        "loadtests.claims.command.ClaimsOptions",
        "published claims about training with LoRA: reproduced, not reproduced or wrong",
    ),
    "qlora": Test(
        "loadtests.qlora.run",
        "loadtests.qlora.QloraConfig",
        "tokens a second of `lorikeet train` beside a plain loop of transformers, PEFT and bitsandbytes",
    ),
    "scaling": Test(
        "loadtests.scaling.run",
        "loadtests.scaling.ScalingConfig",
        "tokens a second of `lorikeet train` on one GPU and on several",
    ),
    "start": Test(
        "loadtests.start.run", "loadtests.start.StartConfig", "time of an engine from nothing to ready"
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The test's name; its own arguments are read once it is known, since some tests import torch."""
    require("server", "adapters", "loadtests")
    width = max(map(len, TESTS))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "tests:\n" + "\n".join(f"  {name:<{width}}  {test.help}" for name, test in TESTS.items())
    parser.add_argument("test", choices=TESTS, metavar="TEST", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Runs the chosen test."""
    test = TESTS[args.test]
    config = _find(test.config)
    parser = argparse.ArgumentParser(
        prog=f"lorikeet loadtest {args.test}", description=test.help + ".", allow_abbrev=False
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    for place, text in test.places:
        parser.add_argument(place, metavar=place.upper(), help=text)
    add_flags(parser, config)
    chosen = parser.parse_args(args.arguments)
    words = [getattr(chosen, place) for place, _ in test.places]
    return int(_find(test.run)(*words, read_flags(config, chosen)))


def _find(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
