"""Where a scenario runs: a server that is there, or one that is started with what the scenario needs."""

import os
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from loadtests.drive.target import Target
from loadtests.scenario.options import RunOptions
from loadtests.scenario.spec import House
from lorikeet.client import Client
from lorikeet.local import Serving, serving


@dataclass(frozen=True)
class Place:
    """template: an adapter that fits; None: those of the workload are there. server: None if not ours."""

    target: Target
    template: Path | None
    metrics: str
    server: Serving | None = None

    def kill_engine(self) -> None:
        """The front lives on."""
        assert self.server is not None, "only an engine of our own is killed"
        for child in psutil.Process(self.server.process.pid).children():
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)


@contextmanager
def placed(options: RunOptions, house: House) -> Iterator[Place]:
    if not options.serve:
        template = Path(options.adapter) if options.adapter else None
        yield Place(options.target_at(options.target), template, options.metrics)
        return
    with tempfile.TemporaryDirectory(prefix="lorikeet-loadtest-") as folder:
        yield from _serve(options, house, Path(folder))


def _serve(options: RunOptions, house: House, folder: Path) -> Iterator[Place]:
    # Torch is needed to make a base, not to drive a server that is there.
    from loadtests.random_house import write_house

    base, adapter = write_house(options.model, house.rank, folder)
    metrics_port = free_port()
    flags = ["--metrics-port", str(metrics_port), "--quantization", options.quantization]
    flags += ["--device", options.device]
    for name, value in house.flags.items():
        flags += [f"--{name.replace('_', '-')}", value]
    with serving(base, folder, flags) as server:
        with Client(server.target) as client:
            server.wait_ready(client)
        metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        yield Place(options.target_at(server.target), adapter, metrics, server)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
