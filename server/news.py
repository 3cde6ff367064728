"""Something changed: whoever waits looks again. Nothing is said of what, so nothing can be missed."""

import asyncio
from collections.abc import AsyncIterator


class News:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._told = asyncio.Event()

    def tell(self) -> None:
        """Wakes everybody who waits."""
        told, self._told = self._told, asyncio.Event()
        told.set()

    async def looks(self) -> AsyncIterator[None]:
        """Once at the start, and once after every change; changes during a look are one more look."""
        while True:
            told = self._told
            yield
            await told.wait()
