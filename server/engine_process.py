"""The front's hold on the engine's process: start, talk, watch, restart."""

import asyncio
import logging
import os
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import fields
from itertools import count
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from adapters.errors import InvalidAdapter, StoreUnavailable
from adapters.manifest import Manifest
from server.config import ServerConfig
from server.engine.config import EngineConfig
from server.engine.messages import (
    Abort,
    Broken,
    Command,
    Failure,
    Prepare,
    Prepared,
    Ready,
    Report,
    Stats,
    Stop,
    Submit,
    Token,
)
from server.errors import NotReady
from server.link import EngineLost, require_ready
from server.stream import Stream

# An engine lost this many times in a row without one token in between is not started again.
MAX_FRUITLESS_STARTS = 3
# A request that saw the engine die this often is not submitted again.
MAX_LOSSES = 2
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
        self._config = EngineConfig(**{name: getattr(config, name) for name in names})
        self._stream_interval = config.stream_interval
        self._folder = tempfile.TemporaryDirectory(prefix="lorikeet-")
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._streams: dict[int, Stream] = {}
        self._preparing: dict[int, asyncio.Future[Prepared]] = {}
        self._ids = count(1)
        self._starts = count()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Report)
        self._ready: Ready | None = None
        self._stats: Stats | None = None
        self._fruitless_starts = 0
        self._lost = ""
        self._process: asyncio.subprocess.Process | None = None
        self._death: asyncio.Future[int] | None = None

    @property
    def ready(self) -> Ready | None:
        return self._ready

    @property
    def stats(self) -> Stats | None:
        return self._stats

    @property
    def pid(self) -> int:
        assert self._process is not None, "the engine was started"
        return self._process.pid

    def new_id(self) -> int:
        return next(self._ids)

    async def start(self) -> None:
        """Returns when the base is loaded; raises EngineFailed."""
        try:
            await self._start_process()
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
        if self._process is not None and self._death is not None:
            await asyncio.wait((self._death,), timeout=patience)
            if not self._death.done():
                self._process.kill()
            await self._death
        self._close_sockets()
        self._context.term()
        self._folder.cleanup()

    async def submit(self, request: Submit) -> AsyncIterator[list[Token] | Failure]:
        """While the engine restarts the sequence waits with the others that will be resubmitted."""
        share = min(1.0, (len(self._streams) + 1) / CROWD)
        stream = Stream(request, self._stream_interval * share)
        if self._lost:
            raise EngineLost(self._lost)
        self._streams[request.id] = stream
        try:
            self._send(request)
            while True:
                news = await stream.take()
                yield news
                if isinstance(news, Failure) or news[-1].finish:
                    return
        finally:
            # Still known: the reader left before the end.
            if self._streams.pop(request.id, None) is not None:
                self._send(Abort(request.id))

    async def prepare(self, folder: Path, manifest: Manifest) -> Manifest:
        """Nothing is said again to the engine that follows a lost one: the upload is."""
        require_ready(self)
        asked = self.new_id()
        answer = self._preparing[asked] = asyncio.get_running_loop().create_future()
        try:
            self._send(Prepare(asked, str(folder.resolve()), manifest.to_json()))
            done = await answer
        finally:
            del self._preparing[asked]
        if done.problems:
            raise InvalidAdapter(done.problems)
        if done.failure:
            raise StoreUnavailable(f"The adapter was not stored: {done.failure}; try again.")
        return Manifest.from_json(done.manifest)

    async def _start_process(self) -> None:
        # Sockets of their own for each start: nothing meant for a lost engine reaches the next.
        folder = Path(self._folder.name) / str(next(self._starts))
        folder.mkdir()
        # Connected, not bound: a command then waits for the engine in the socket, and never the front.
        self._commands = self._context.socket(zmq.PUSH)
        self._commands.set_hwm(0)
        self._commands.connect(f"ipc://{folder}/commands")
        self._reports = zmq.asyncio.Context(self._context).socket(zmq.PULL)
        self._reports.set_hwm(0)
        self._reports.bind(f"ipc://{folder}/reports")
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "server.engine.process",
            str(folder),
            stdin=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        self._death = asyncio.ensure_future(self._process.wait())
        assert self._process.stdin is not None, "the process was started with a pipe"
        self._process.stdin.write(msgspec.json.encode(self._config, enc_hook=str) + b"\n")
        report = await self._next_report()
        if not isinstance(report, Ready):
            raise EngineFailed(
                report.message if isinstance(report, Broken) else "the engine died while it loaded"
            )
        self._ready = report

    def _close_sockets(self) -> None:
        self._commands.close(linger=0)
        self._reports.close(linger=0)

    def _send(self, command: Command) -> None:
        """Never waits. What an engine that is gone or loads does not hear is said again to the next one."""
        if self._ready is not None:
            self._commands.send(self._encoder.encode(command), zmq.NOBLOCK)

    async def _next_report(self) -> Report | None:
        """None once the process is gone and everything it said was read."""
        receive = asyncio.ensure_future(self._reports.recv())
        try:
            assert self._death is not None, "the engine was started"
            await asyncio.wait((receive, self._death), return_when=asyncio.FIRST_COMPLETED)
            if not receive.done():
                await asyncio.wait((receive,), timeout=0.2)
            return self._decoder.decode(receive.result()) if receive.done() else None
        finally:
            receive.cancel()

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
        self._ready = self._stats = None
        self._lose_uploads()
        self._close_sockets()
        self._fruitless_starts += 1
        if self._fruitless_starts > MAX_FRUITLESS_STARTS:
            raise EngineFailed("the engine dies again and again")
        await self._start_process()
        for stream in list(self._streams.values()):
            stream.losses += 1
            if stream.losses > MAX_LOSSES:
                # It was there every time: the others should not go down with it again.
                del self._streams[stream.request.id]
                stream.fail(EngineLost("the engine was lost over and over while it worked on this request"))
            else:
                self._send(stream.resubmission())

    def _hand_out(self, report: Report) -> None:
        if isinstance(report, (Ready, Broken)):
            return
        self._stats = report.stats
        if report.tokens:
            self._fruitless_starts = 0
        for token in report.tokens:
            stream = self._streams.get(token.id)
            if stream is not None:
                stream.put(token)
                if token.finish:
                    del self._streams[token.id]
        for done in report.prepared:
            waiting = self._preparing.get(done.id)
            if waiting is not None and not waiting.done():
                waiting.set_result(done)
        for failure in report.failures:
            stream = self._streams.pop(failure.id, None)
            if stream is not None:
                stream.fail(failure)

    def _lose_streams(self, why: str) -> None:
        """For good: streams end, and new ones are refused."""
        self._lost = why
        self._ready = None
        self._lose_uploads()
        for stream in self._streams.values():
            stream.fail(EngineLost(why))
        self._streams.clear()

    def _lose_uploads(self) -> None:
        for waiting in self._preparing.values():
            if not waiting.done():
                waiting.set_exception(
                    NotReady("The engine was lost while it prepared the adapter; try again.")
                )
