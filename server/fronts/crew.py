"""The fronts beside the first one: started, told how the engine is, replaced when they die, ended."""

import asyncio
import logging
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import grpc
import msgspec

from server.config import ServerConfig
from server.desk import OwnDesk
from server.fronts.forward import CHANNEL_OPTIONS, Vouched
from server.fronts.guest import Guest
from server.fronts.messages import Asked, Drain, End, Figures, State, Welcome
from server.fronts.pipe import Pipe
from server.fronts.sums import Sums
from server.gate import Gate
from server.identity.access import Access
from server.link import AnsweringLink
from server.spawn import spawn
from server.tenant_metrics import Tally

# Names of the sockets in the folder that is the fronts' alone.
TALK, CALLS = "talk", "calls"
# How often fronts are told of the engine, if it changed.
LOOK_SECONDS = 0.1
# Before another front is started in the place of one that died, so that none dies in a hot loop.
PAUSE_SECONDS = 1.0
# What a front that was told to end may take for it.
END_SECONDS = 5.0

log = logging.getLogger(__name__)


class Crew:
    """Belongs to the first front's event loop."""

    def __init__(
        self, config: ServerConfig, desk: OwnDesk, link: AnsweringLink, sums: Sums, tenants: Tally
    ) -> None:
        self._config = config
        self._desk = desk
        self._link = link
        self._sums = sums
        self._tenants = tenants
        self._folder = tempfile.TemporaryDirectory(prefix="lorikeet-fronts-")
        self._numbers = count(1)
        self._pipes: set[Pipe[Asked]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._guests: set[asyncio.Task[None]] = set()
        self._calls = grpc.aio.server(interceptors=(Gate(Access(Vouched())),), options=CHANNEL_OPTIONS)
        self._port = 0

    async def start(self, port: int, add_services: Callable[[grpc.aio.Server], None]) -> None:
        """Fronts come to listen on the port; what they cannot serve themselves, these services do."""
        self._port = port
        add_services(self._calls)
        self._calls.add_insecure_port(f"unix:{self._folder.name}/{CALLS}")
        await self._calls.start()
        self._talk = await asyncio.start_unix_server(self._meet, f"{self._folder.name}/{TALK}")
        self._tasks = [asyncio.create_task(self._keep()) for _ in range(1, self._config.fronts)]
        self._tasks.append(asyncio.create_task(self._tell_state()))

    def drain(self) -> None:
        """Their health says that nothing new is taken."""
        self._tell(Drain())

    async def stop(self) -> None:
        """Returns once all of them have ended."""
        self._tell(End())
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*self._guests, return_exceptions=True)
        await self._calls.stop(None)
        self._talk.close()
        self._folder.cleanup()

    def _tell(self, message: Drain | End | State) -> None:
        for pipe in self._pipes:
            pipe.tell(message)

    async def _keep(self) -> None:
        """One front at a time, until cancelled; then the last one gets some time to end."""
        while True:
            process = await spawn("server.fronts.process", Path(self._folder.name))
            died = asyncio.ensure_future(process.wait())
            try:
                code = await asyncio.shield(died)
            except asyncio.CancelledError:
                await asyncio.wait((died,), timeout=END_SECONDS)
                if not died.done():
                    process.kill()
                await died
                raise
            log.error("a front (pid %d) ended with exit code %d; another one takes over", process.pid, code)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One front, until it is gone."""
        task = asyncio.current_task()
        assert task is not None, "asyncio meets each connection in a task"
        self._guests.add(task)
        task.add_done_callback(self._guests.discard)
        number = next(self._numbers)
        pipe: Pipe[Asked] = Pipe(reader, writer, Asked)
        pipe.tell(Welcome(number, msgspec.json.encode(self._config, enc_hook=str).decode(), self._port))
        pipe.tell(State(self._link.ready, self._link.is_alive))
        self._pipes.add(pipe)
        try:
            await Guest(pipe, self._desk, self._link, lambda figures: self._count(number, figures)).serve()
        finally:
            self._pipes.discard(pipe)
            self._sums.leave(number)
            await pipe.close()

    def _count(self, front: int, figures: Figures) -> None:
        self._sums.put(front, figures.figures)
        for tenant, counts in figures.tenants.items():
            self._tenants.add(tenant, **counts)

    async def _tell_state(self) -> None:
        told: State | None = None
        while True:
            state = State(self._link.ready, self._link.is_alive)
            if state != told:
                self._tell(state)
                told = state
            await asyncio.sleep(LOOK_SECONDS)
