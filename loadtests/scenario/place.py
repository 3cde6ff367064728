"""Where a scenario runs: a server, and what is known of it."""

import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from loadtests.drive.target import Target
from loadtests.scenario.options import PlaceOptions
from lorikeet.local import Serving


@dataclass(frozen=True)
class Place:
    """template: an adapter that fits; None: those of the workload are there. server: None if not ours.

    brought: (tenant, name) -> the template of which a variant was uploaded under it already.
    is_fresh: nobody has asked the server anything yet.
    """

    target: Target
    template: Path | None
    metrics: str
    server: Serving | None = None
    brought: dict[tuple[str, str], Path] = field(default_factory=dict)
    is_fresh: bool = False

    def kill_engine(self) -> None:
        """The front lives on."""
        assert self.server is not None, "only an engine of our own is killed"
        for child in psutil.Process(self.server.process.pid).children():
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)


def place_there(options: PlaceOptions) -> Place:
    """At the server that somebody else has started."""
    template = Path(options.adapter) if options.adapter else None
    return Place(options.target_at(options.target, options.told_keys()), template, options.metrics)
