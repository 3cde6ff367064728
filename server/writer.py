"""A call's way to its reader: one message at a time, and not for ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from lorikeet.v1 import inference_pb2 as pb
from server.errors import SlowReader

Context: TypeAlias = Any


class Writer:
    """Writes the messages of all samples of one call."""

    def __init__(self, context: Context, patience: float) -> None:
        self._context = context
        self._patience = patience
        # A call takes one write at a time.
        self._lock = asyncio.Lock()
        self._began = False
        self._writing_since: float | None = None

    async def write(self, message: pb.GenerateResponse) -> None:
        """Returns once there is room for the next message; nobody but the call waits for it."""
        async with self._lock:
            self._writing_since = asyncio.get_running_loop().time()
            if not self._began:
                # By itself: headers still under way with a stalled first message would keep
                # grpc from telling the reader that it was cut.
                self._began = True
                await self._context.send_initial_metadata(())
            await self._context.write(message)
            self._writing_since = None

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Raises SlowReader from the block once a write took too long.

        One look in all of the patience, because a timeout for each write would cost more than making
        the message.
        """
        limit = asyncio.timeout(None)
        try:
            async with limit:
                watch = _Watch(self, limit)
                try:
                    yield
                finally:
                    watch.timer.cancel()
        except TimeoutError as error:
            if limit.expired():
                raise SlowReader(f"The reader took no message for {self._patience:g} seconds.") from error
            raise

    def seconds_left(self, now: float) -> float:
        """Until the write under way has taken too long, or one that began now."""
        since = now if self._writing_since is None else self._writing_since
        return since + self._patience - now


class _Watch:
    """Ends the block under `limit` when its writer is stalled."""

    def __init__(self, writer: Writer, limit: asyncio.Timeout) -> None:
        self._writer = writer
        self._limit = limit
        self._loop = asyncio.get_running_loop()
        self.timer = self._loop.call_later(writer.seconds_left(self._loop.time()), self._look)

    def _look(self) -> None:
        now = self._loop.time()
        left = self._writer.seconds_left(now)
        if left <= 0.0:
            self._limit.reschedule(now)
        else:
            self.timer = self._loop.call_later(left, self._look)
