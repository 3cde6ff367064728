"""How much work is in the house, and whether more is let in."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from server.errors import NotReady, QueueFull


class Admission:
    """A count of live work with an upper bound, which can be closed and waited out."""

    def __init__(self, limit: int, what: str) -> None:
        self.num_live = 0
        self._limit = limit
        self._what = what
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def admit(self, count: int = 1) -> Iterator[None]:
        """Holds `count` places; raises NotReady once closed and QueueFull when there are fewer."""
        if self._closed:
            raise NotReady("The server is shutting down; try another one, or this one again in a moment.")
        if self.num_live + count > self._limit:
            raise QueueFull(f"The server takes {self._limit} {self._what} at once; try again in a moment.")
        self.num_live += count
        self._idle.clear()
        try:
            yield
        finally:
            self.num_live -= count
            if self.num_live == 0:
                self._idle.set()

    def close(self) -> None:
        """Lets nothing in any more."""
        self._closed = True

    async def wait_idle(self) -> None:
        """Returns once nothing is left."""
        await self._idle.wait()
