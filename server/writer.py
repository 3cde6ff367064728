"""A call's way to its reader: one message at a time, and not for ever."""

import asyncio
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

    async def write(self, message: pb.GenerateResponse) -> None:
        """Raises SlowReader if the reader leaves no room for too long; nobody else waits meanwhile."""
        try:
            async with asyncio.timeout(self._patience), self._lock:
                if not self._began:
                    # By itself: headers still under way with a stalled first message would keep
                    # grpc from telling the reader that it was cut.
                    self._began = True
                    await self._context.send_initial_metadata(())
                await self._context.write(message)
        except TimeoutError as error:
            raise SlowReader(f"The reader took no message for {self._patience:g} seconds.") from error
