"""A workload driven by several processes, each with every n-th request, from one start on one clock."""

import multiprocessing
import time
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from loadtests.drive.progress import Progress
from loadtests.drive.records import Run
from loadtests.drive.target import Target
from loadtests.drive.worker import Done, Failed, Ready, Shard, main
from loadtests.figures import LoadTestError
from loadtests.workload.events import Workload

# From the word to start until the first request is due.
LEAD_SECONDS = 0.25

Watch = Callable[[float, Progress], None]


@dataclass(frozen=True, kw_only=True)
class DriveConfig:
    """template: a folder with an adapter, of which uploads are variants."""

    processes: int = 1
    drain_seconds: float = 60.0
    template: Path | None = None


def drive(
    workload: Workload,
    target: Target,
    config: DriveConfig | None = None,
    watch: Watch | None = None,
    begun: Callable[[float], None] | None = None,
) -> Run:
    """Blocks until every request has ended or was cut off. Raises LoadTestError if the driver itself fails.

    `watch` hears seconds after the start and what happened so far, four times a second; `begun` the start
    on the monotonic clock, before the first request is due.
    """
    config = config or DriveConfig()
    if workload.uploads and config.template is None:
        raise LoadTestError("this workload uploads adapters: name a folder to make them from (--adapter)")
    fleet = _Fleet(_shards(workload, target, config))
    try:
        fleet.wait_ready()
        start = time.monotonic() + LEAD_SECONDS
        started_at = time.time() + LEAD_SECONDS
        if begun is not None:
            begun(start)
        done = fleet.drive(start, watch)
    finally:
        fleet.close()
    return _run_of(workload, target, config, started_at, done)


def _run_of(
    workload: Workload, target: Target, config: DriveConfig, started_at: float, done: Sequence[Done]
) -> Run:
    return Run(
        name=workload.name,
        target=target.title,
        seed=workload.seed,
        duration=workload.duration,
        started_at=started_at,
        records=sorted((r for each in done for r in each.records), key=lambda r: r.index),
        uploads=[u for each in done for u in each.uploads],
        cpu_seconds=sum(each.cpu_seconds for each in done[: config.processes]),
        waited_seconds=sum(each.waited_seconds for each in done[: config.processes]),
        processes=config.processes,
    )


def _shards(workload: Workload, target: Target, config: DriveConfig) -> list[Shard]:
    """The requests' first; and one of uploads alone, which would hold up the tokens that others wait for."""
    asking = Shard(target, workload.seed, workload.shared, (), (), config.template, config.drain_seconds)
    parts = [workload.requests[number :: config.processes] for number in range(config.processes)]
    bringing = [replace(asking, uploads=workload.uploads)] if workload.uploads else []
    return [*(replace(asking, requests=part) for part in parts), *bringing]


class _Fleet:
    def __init__(self, shards: Sequence[Shard]) -> None:
        # Not forked: grpc's threads do not survive that.
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Pipe] = []
        self._processes: list[BaseProcess] = []
        for shard in shards:
            ours, theirs = context.Pipe()
            process = context.Process(target=main, args=(theirs, shard), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def wait_ready(self) -> None:
        for pipe in self._pipes:
            message = self._receive(pipe)
            assert isinstance(message, Ready), f"a driver began with {message}"

    def drive(self, start: float, watch: Watch | None) -> list[Done]:
        for pipe in self._pipes:
            pipe.send(start)
        told = [Progress()] * len(self._pipes)
        done: dict[int, Done] = {}
        while len(done) < len(self._pipes):
            for number in self._heard(done):
                message = self._receive(self._pipes[number])
                if isinstance(message, Done):
                    done[number] = message
                else:
                    told[number] = message
            if watch is not None:
                watch(time.monotonic() - start, sum(told, Progress()))
        return [done[number] for number in sorted(done)]

    def _heard(self, done: Container[int]) -> list[int]:
        """Numbers of those that are not done and have said something."""
        running = {id(pipe): number for number, pipe in enumerate(self._pipes) if number not in done}
        heard = wait([self._pipes[number] for number in running.values()])
        return [running[id(pipe)] for pipe in heard]

    def _receive(self, pipe: Pipe) -> Any:
        try:
            message = pipe.recv()
        except EOFError as error:
            raise LoadTestError("a process of the driver ended before its work was done") from error
        if isinstance(message, Failed):
            raise LoadTestError(f"a process of the driver failed: {message.sentence}")
        return message

    def close(self) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.terminate()
            process.join()
