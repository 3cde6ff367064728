"""The front's hold on the engine's process: start, talk, watch, restart."""

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator
from dataclasses import fields
from itertools import count
from pathlib import Path

import zmq

from adapters.manifest import Manifest
from server.config import ServerConfig
from server.engine.config import EngineConfig
from server.engine.messages import (
    Abort,
    Broken,
    Command,
    Failure,
    Pin,
    Ready,
    Report,
    Stats,
    Stop,
    Submit,
    Token,
    Unpin,
    Warm,
)
from server.engine_child import EngineChild
from server.link import EngineLost, require_ready
from server.news import News
from server.places import Places
from server.preparations import Preparations
from server.pulse import SILENT_SECONDS, Pulse
from server.stream import Stream
from server.streams import Streams

# An engine lost this many times in a row without one token in between is not started again.
MAX_FRUITLESS_STARTS = 3
STOP_SECONDS = 10.0
# From this many streams on, each is told at the configured interval.
CROWD = 16

log = logging.getLogger(__name__)


class EngineFailed(Exception):
    """The engine cannot start; the message says why."""


class EngineProcess:
    """An EngineLink to a process of our own. A lost engine is started again and goes on where it was."""

    def __init__(self, config: ServerConfig) -> None:
        names = [f.name for f in fields(EngineConfig)]
        given = {name: getattr(config, name) for name in names}
        self._config = EngineConfig(**given | {"adapter_store": config.adapter_folder})
        self._stream_interval = config.stream_interval
        self._hang_seconds = config.hang_seconds
        self._pulse = Pulse()
        self._folder = tempfile.TemporaryDirectory(prefix="lorikeet-")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.news = News()
        self._streams = Streams(lambda stream: self._send(stream.resubmission()))
        self._preparations = Preparations(self._send)
        self._ids = count(1)
        self._starts = count()
        self._ready: Ready | None = None
        self._stats: Stats | None = None
        self.places = Places(self.news)
        self._fruitless_starts = 0
        self._lost = ""
        self._child: EngineChild | None = None

    @property
    def ready(self) -> Ready | None:
        return self._ready

    @property
    def is_alive(self) -> bool:
        return not self._streams or self._pulse.silence < SILENT_SECONDS

    @property
    def stats(self) -> Stats | None:
        return self._stats

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def _running(self) -> EngineChild:
        assert self._child is not None, "the engine was started"
        return self._child

    def new_id(self) -> int:
        return next(self._ids)

    async def start(self) -> None:
        """Returns when the base is loaded; raises EngineFailed."""
        try:
            await self._start_child()
        except BaseException:
            # Also when the start was cancelled: no process may be left behind.
            await self._clean_up(patience=0.0)
            raise
        self._watcher = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Ends the process, and every stream that is left with EngineLost."""
        self._watcher.cancel()
        await asyncio.gather(self._watcher, return_exceptions=True)
        self._send(Stop())
        self._lose_streams("the server stopped")
        await self._clean_up(STOP_SECONDS)

    async def _clean_up(self, patience: float) -> None:
        if self._child is not None:
            await self._child.end(patience)
        self._context.term()
        self._folder.cleanup()

    def warm(self, digest: str, tier: str) -> None:
        self._send(Warm(digest, tier))

    def pin(self, digest: str, tier: str) -> None:
        self._send(Pin(digest, tier))

    def unpin(self, digest: str) -> None:
        self._send(Unpin(digest))

    async def submit(self, request: Submit) -> AsyncIterator[list[Token] | Failure]:
        """While the engine restarts the sequence waits with the others that will be resubmitted."""
        share = min(1.0, (len(self._streams) + 1) / CROWD)
        stream = Stream(request, self._stream_interval * share)
        if self._lost:
            raise EngineLost(self._lost)
        self._pulse.ask()
        self._streams.open(stream, is_ready=self._ready is not None)
        try:
            while not stream.is_over:
                yield await stream.take()
        finally:
            if self._streams.leave(stream):
                self._send(Abort(request.id))

    async def prepare(self, folder: Path, manifest: Manifest) -> Manifest:
        require_ready(self)
        return await self._preparations.ask(self.new_id(), folder, manifest)

    async def _start_child(self) -> None:
        folder = Path(self._folder.name) / str(next(self._starts))
        self._child = await EngineChild.start(self._context, folder, self._config)
        report = await self._next_report()
        if not isinstance(report, Ready):
            raise EngineFailed(
                report.message if isinstance(report, Broken) else "the engine died while it loaded"
            )
        self._ready = report
        self.news.tell()

    def _send(self, command: Command) -> None:
        """Never waits. What an engine that is gone or loads does not hear is said again to the next one."""
        if self._ready is not None:
            self._running.send(command)

    async def _next_report(self) -> Report | None:
        """None once the process is gone and everything it said was read. One that hangs is killed."""
        report = await self._running.report(self._kill_if_hung)
        self._pulse.beat()
        return report

    def _kill_if_hung(self) -> None:
        if self._ready is None or not self._streams:
            # It loads, or nobody waits.
            return
        if self._pulse.silence > self._hang_seconds:
            log.error("the engine has said nothing for %.0f s", self._pulse.silence)
            self._pulse.beat()
            self._running.kill()

    async def _watch(self) -> None:
        """Hands out reports as long as there is an engine, and starts another when it is lost."""
        try:
            while True:
                while (report := await self._next_report()) is not None:
                    self._hand_out(report)
                log.error("the engine died")
                await self._start_again()
        except Exception as error:
            log.exception("the engine is lost for good")
            self._lose_streams(str(error) or type(error).__name__)

    async def _start_again(self) -> None:
        """Raises EngineFailed once it died too often in a row, also while it loads."""
        self._ready = self._stats = None
        self.places.clear()
        self.news.tell()
        self._preparations.lose()
        while self._ready is None:
            # What one that could not start still holds of the device's memory, the next one would lack.
            await self._running.end(STOP_SECONDS)
            self._fruitless_starts += 1
            if self._fruitless_starts > MAX_FRUITLESS_STARTS:
                raise EngineFailed("the engine dies again and again")
            try:
                await self._start_child()
            except EngineFailed as error:
                log.error("the engine could not be started again: %s", error)
        if self._streams.resume():
            # Each loss that found a culprit leaves one less: engines may be lost to all of them.
            self._fruitless_starts = 0

    def _hand_out(self, report: Report) -> None:
        if isinstance(report, (Ready, Broken)):
            return
        self._stats = report.stats
        self.places.take(report.moved, report.refusals)
        if report.tokens:
            self._fruitless_starts = 0
        self._streams.put(report.tokens)
        for done in report.prepared:
            self._preparations.take(done)
        self._streams.fail(report.failures)

    def _lose_streams(self, why: str) -> None:
        """For good: streams end, and new ones are refused."""
        self._lost = why
        self._ready = None
        self.news.tell()
        self._preparations.lose()
        self._streams.lose(why)
