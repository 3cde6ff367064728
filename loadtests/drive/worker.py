"""One process of the driver."""

import asyncio
import gc
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from loadtests.drive.cores import waited_seconds
from loadtests.drive.openloop import OpenLoop
from loadtests.drive.prompts import Prompts
from loadtests.drive.records import Record, UploadRecord
from loadtests.drive.target import Connection, Served, Target
from loadtests.figures import LoadTestError
from loadtests.variants import Variants
from loadtests.workload.events import Request, Upload

TELL_SECONDS = 0.25


@dataclass(frozen=True)
class Shard:
    """One process's part of a workload."""

    target: Target
    seed: int
    shared: int
    requests: tuple[Request, ...]
    uploads: tuple[Upload, ...]
    template: Path | None
    drain_seconds: float


@dataclass(frozen=True)
class Ready:
    served: Served


@dataclass(frozen=True)
class Done:
    records: list[Record]
    uploads: list[UploadRecord]
    cpu_seconds: float
    waited_seconds: float


@dataclass(frozen=True)
class Failed:
    sentence: str


def main(pipe: Pipe, shard: Shard) -> None:
    """Says Ready, is told when to start on the monotonic clock, says Progress, and then Done or Failed."""
    # Nothing here makes cycles worth a pause: what was imported stays, and the rest is looked at rarely.
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
    try:
        asyncio.run(_drive(pipe, shard))
    except Exception as error:  # noqa: BLE001 (the parent raises it)
        pipe.send(Failed(f"{type(error).__name__}: {error}"))


async def _drive(pipe: Pipe, shard: Shard) -> None:
    connection = shard.target.connect()
    try:
        served = await connection.describe()
        _require_context(served, shard)
        pipe.send(Ready(served))
        start = await asyncio.to_thread(pipe.recv)
        pipe.send(await _run(pipe, shard, connection, served, start))
    finally:
        await connection.close()


async def _run(pipe: Pipe, shard: Shard, connection: Connection, served: Served, start: float) -> Done:
    loop = OpenLoop(
        connection=connection,
        clock=lambda: time.monotonic() - start,
        prompts=Prompts(shard.seed, shard.shared, served.vocab_size),
        folders=Variants(shard.template) if shard.template else _no_folders,
        drain_seconds=shard.drain_seconds,
    )
    before, waited = time.process_time(), waited_seconds()
    telling = asyncio.create_task(_tell(pipe, loop))
    try:
        records, uploads = await loop.run(shard.requests, shard.uploads)
        # The last word, which would come too late from a timer.
        pipe.send(loop.progress)
        used = time.process_time() - before
        return Done(records, uploads, used, waited_seconds() - waited)
    finally:
        telling.cancel()


async def _tell(pipe: Pipe, loop: OpenLoop) -> None:
    while True:
        pipe.send(loop.progress)
        await asyncio.sleep(TELL_SECONDS)


def _require_context(served: Served, shard: Shard) -> None:
    longest = max((r.prompt_tokens + r.answer_tokens for r in shard.requests), default=0)
    if served.max_context and longest > served.max_context:
        raise LoadTestError(
            f"the longest request has {longest} tokens, and {served.name} takes {served.max_context}"
        )


def _no_folders(variant: int) -> AbstractContextManager[Path]:
    raise AssertionError("uploads without a template were let through")
