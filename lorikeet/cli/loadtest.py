"""`lorikeet loadtest`: measures on this machine, without a server."""

import argparse

from lorikeet.cli.flags import add_flags, read_flags
from lorikeet.cli.guard import require

SUMMARY = "measure steps, kernels and starts on this machine"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One parser for each test."""
    require("server", "adapters", "loadtests")
    from loadtests.kernels import KernelConfig
    from loadtests.start import StartConfig
    from loadtests.step_config import StepConfig
    from loadtests.thrash import ThrashConfig

    tests = parser.add_subparsers(dest="test", required=True, metavar="TEST")
    for name, config, text in (
        ("step", StepConfig, "time of a decode step for each batch, base and mix of adapters"),
        ("kernels", KernelConfig, "time of each kernel beside bitsandbytes, cuBLAS and the floor"),
        ("start", StartConfig, "time of an engine from nothing to ready"),
        ("thrash", ThrashConfig, "a server with more adapters than its device has room for"),
    ):
        test = tests.add_parser(name, help=text, description=text + ".", allow_abbrev=False)
        test.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        add_flags(test, config)


def run(args: argparse.Namespace) -> int:
    """Runs the chosen test."""
    from loadtests import kernels, start, step, thrash
    from loadtests.step_config import StepConfig

    if args.test == "step":
        return step.run(read_flags(StepConfig, args))
    if args.test == "thrash":
        return thrash.run(read_flags(thrash.ThrashConfig, args))
    if args.test == "start":
        return start.run(read_flags(start.StartConfig, args))
    return kernels.run(read_flags(kernels.KernelConfig, args))
