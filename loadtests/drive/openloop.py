"""The open loop of one process.

A closed loop waits for an answer before it asks again, and so asks less the slower the server is: what waits
in a queue is never seen (coordinated omission). Here each request has its time, and its latency counts from
that time even if this process could not send it then.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from loadtests.drive.progress import Progress
from loadtests.drive.records import Record, UploadRecord
from loadtests.drive.target import Clock, Connection
from loadtests.workload.events import Request, Upload

# An event loop's own timers are late by up to a millisecond: it wakes so much earlier and then looks.
WAKE_EARLY = 0.001

Prompts = Callable[[Request], list[int]]
Folders = Callable[[int], AbstractContextManager[Path]]


@dataclass
class OpenLoop:
    """clock: seconds after the start, which may lie ahead."""

    connection: Connection
    clock: Clock
    prompts: Prompts
    folders: Folders
    drain_seconds: float
    progress: Progress = field(default_factory=Progress)

    async def run(
        self, requests: Sequence[Request], uploads: Sequence[Upload]
    ) -> tuple[list[Record], list[UploadRecord]]:
        """Everything due is sent; what has not ended `drain_seconds` after the last is cut off."""
        records = [Record.of(request) for request in requests]
        brought = [UploadRecord(upload.tenant, upload.adapter, upload.at) for upload in uploads]
        sending = self._send_all(requests, records), self._bring_all(uploads, brought)
        tasks = list(chain(*await asyncio.gather(*sending)))
        _, late = await asyncio.wait(tasks, timeout=self.drain_seconds) if tasks else (set(), set())
        for task in late:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            # A cut-off request is in its record; anything else that was raised is a fault of this program.
            if isinstance(result, Exception):
                raise result
        return records, brought

    async def _send_all(
        self, requests: Sequence[Request], records: Sequence[Record]
    ) -> list[asyncio.Task[None]]:
        tasks = []
        for request, record in zip(requests, records, strict=True):
            prompt = self.prompts(request)
            await self._until(request.at)
            tasks.append(asyncio.create_task(self._ask(request, prompt, record)))
        return tasks

    async def _until(self, at: float) -> None:
        if (early := at - self.clock() - WAKE_EARLY) > 0:
            await asyncio.sleep(early)
        while self.clock() < at:
            await asyncio.sleep(0)

    async def _ask(self, request: Request, prompt: list[int], record: Record) -> None:
        self.progress.sent += 1
        try:
            await self.connection.ask(request, prompt, record, self.clock)
        finally:
            self._count(record)

    def _count(self, record: Record) -> None:
        p = self.progress
        p.ok += record.is_ok
        p.failed += not record.is_ok
        p.tokens += record.tokens
        p.worst_late = max(p.worst_late, record.lateness)
        if record.times:
            p.firsts += 1
            p.first_seconds += record.first_token

    async def _bring_all(
        self, uploads: Sequence[Upload], records: Sequence[UploadRecord]
    ) -> list[asyncio.Task[None]]:
        """Side by side, like the requests: a slow upload holds up no other."""
        tasks = []
        for upload, record in zip(uploads, records, strict=True):
            await self._until(upload.at)
            tasks.append(asyncio.create_task(self._bring(upload, record)))
        return tasks

    async def _bring(self, upload: Upload, record: UploadRecord) -> None:
        variant = self.folders(upload.variant)
        # Written in a thread, since the loop has requests to send.
        folder = await asyncio.to_thread(variant.__enter__)
        try:
            record.outcome = await self.connection.upload(upload.tenant, upload.adapter, folder)
            record.end = self.clock()
        finally:
            await asyncio.to_thread(variant.__exit__, None, None, None)
