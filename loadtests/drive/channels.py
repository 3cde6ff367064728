"""Enough connections that no call waits for a stream: servers allow a connection only so many at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from loadtests.drive.calls import CallError
from loadtests.drive.http2 import Http2
from loadtests.drive.tls import Tls

# Fewer than any server allows: 100 is what HTTP/2 advises as the least, and this server takes 256.
STREAMS_PER_CHANNEL = 80
# The next channel connects while the last one fills.
SPARE_AT = STREAMS_PER_CHANNEL // 2
# Of gRPC's names, for addresses without one.
PORT = 443


@dataclass
class _Lane:
    connecting: "asyncio.Task[Http2]"
    live: int = 0

    @property
    def is_usable(self) -> bool:
        """Also while it connects."""
        task = self.connecting
        return not task.done() or (task.exception() is None and task.result().is_open)


class Channels:
    """Calls go to the first channel that has room."""

    def __init__(self, address: str, tls: Tls | None) -> None:
        place = urlsplit(f"//{address}")
        self._host, self._port = place.hostname or "", place.port or PORT
        self._tls = None if tls is None else tls.context()
        self._lanes: list[_Lane] = []

    async def connect(self) -> None:
        """The first channel, so that no call waits for it. Raises CallError."""
        async with self.channel():
            pass

    @asynccontextmanager
    async def channel(self) -> AsyncIterator[Http2]:
        """For one call. Raises CallError if there is no server."""
        lane = self._choose()
        lane.live += 1
        try:
            yield await _connected(lane)
        finally:
            lane.live -= 1

    async def close(self) -> None:
        for lane in self._lanes:
            lane.connecting.cancel()
        for result in await asyncio.gather(*(e.connecting for e in self._lanes), return_exceptions=True):
            if isinstance(result, Http2):
                result.close()

    def _choose(self) -> _Lane:
        self._lanes = [lane for lane in self._lanes if lane.is_usable]
        if not self._lanes or self._lanes[-1].live >= SPARE_AT:
            self._lanes.append(_Lane(asyncio.create_task(self._open())))
        return next(lane for lane in self._lanes if lane.live < STREAMS_PER_CHANNEL)

    async def _open(self) -> Http2:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Http2, self._host, self._port, ssl=self._tls)
        return connection


async def _connected(lane: _Lane) -> Http2:
    try:
        # Others wait for it too: who is cut off does not end it for them.
        connection = await asyncio.shield(lane.connecting)
    except OSError as error:
        raise CallError("unavailable", f"cannot connect: {error}") from error
    if not connection.is_open:
        raise CallError("unavailable", "the server took the connection and closed it again")
    return connection
