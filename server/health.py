"""grpc.health.v1 as the truth about the engine: serving exactly while it takes requests."""

import asyncio
from collections.abc import Sequence

from grpc_health.v1 import health, health_pb2

from server.link import AnsweringLink

POLL_SECONDS = 0.1


class Health:
    """The health of the whole server, told under each service's name and under the empty one."""

    def __init__(self, link: AnsweringLink, services: Sequence[str]) -> None:
        self.servicer = health.aio.HealthServicer()  # type: ignore[attr-defined]
        self._link = link
        self._names = ("", *services)
        self._told = False
        self._watcher: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._tell(serving=False)
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Not serving, for good; may be called again."""
        if self._watcher is not None:
            self._watcher.cancel()
            await asyncio.wait([self._watcher])
        await self.servicer.enter_graceful_shutdown()

    async def refresh(self) -> None:
        """Tells watchers if something changed."""
        serving = self._link.ready is not None and self._link.is_alive
        if serving != self._told:
            await self._tell(serving)

    async def _watch(self) -> None:
        while True:
            await self.refresh()
            await asyncio.sleep(POLL_SECONDS)

    async def _tell(self, serving: bool) -> None:
        self._told = serving
        status = health_pb2.HealthCheckResponse
        for name in self._names:
            await self.servicer.set(name, status.SERVING if serving else status.NOT_SERVING)
