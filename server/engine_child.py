"""One engine's process, from its start to its end."""

import asyncio
from asyncio import FIRST_COMPLETED
from collections.abc import Callable
from pathlib import Path

import zmq

from server.engine.config import EngineConfig
from server.engine.messages import Command, Report
from server.engine_sockets import EngineSockets
from server.spawn import spawn_engine

# How often one that says nothing is looked at.
LOOK_SECONDS = 1.0
# What a process said before it ended is still read.
LAST_WORDS_SECONDS = 0.2


class EngineChild:
    def __init__(self, process: asyncio.subprocess.Process, sockets: EngineSockets) -> None:
        self._process = process
        self._sockets = sockets
        self._death = asyncio.ensure_future(process.wait())

    @classmethod
    async def start(
        cls, context: "zmq.Context[zmq.Socket[bytes]]", folder: Path, config: EngineConfig
    ) -> "EngineChild":
        """Its sockets are in `folder`, which is made."""
        folder.mkdir()
        sockets = EngineSockets(context, folder)
        try:
            return cls(await spawn_engine(folder, config), sockets)
        except BaseException:
            # A context with open sockets never ends.
            sockets.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, command: Command) -> None:
        """Never waits."""
        self._sockets.send(command)

    async def report(self, look: Callable[[], None]) -> Report | None:
        """None once the process is gone and everything it said was read; `look` runs while it is silent."""
        receive = asyncio.ensure_future(self._sockets.receive())
        try:
            told = (receive, self._death)
            while not (await asyncio.wait(told, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED))[0]:
                look()
            if not receive.done():
                await asyncio.wait((receive,), timeout=LAST_WORDS_SECONDS)
            return receive.result() if receive.done() else None
        finally:
            receive.cancel()

    def kill(self) -> None:
        self._process.kill()

    async def end(self, patience: float) -> None:
        """It has so many seconds to end by itself."""
        await asyncio.wait((self._death,), timeout=patience)
        if not self._death.done():
            self._process.kill()
        await self._death
        self._sockets.close()
