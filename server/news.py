"""Something changed: whoever waits for that looks again. Nothing is said of how, so nothing can be missed."""

import asyncio
from collections.abc import AsyncIterator, Hashable


class News:
    """Belongs to one event loop. A topic is what may change: a version's key, a digest, an upload's key."""

    def __init__(self) -> None:
        self._everybody: set[asyncio.Event] = set()
        # Of those who wait, by what they wait for; no topic without anybody.
        self._waiting: dict[Hashable, set[asyncio.Event]] = {}

    def tell(self, *topics: Hashable) -> None:
        """Wakes who waits for one of these topics; everybody if there is none."""
        if not topics:
            _wake(self._everybody)
        for topic in topics:
            _wake(self._waiting.get(topic, ()))

    async def looks(self, *topics: Hashable) -> AsyncIterator[None]:
        """Once at the start, and once after every change; changes during a look are one more look."""
        told = asyncio.Event()
        self._enter(told, topics)
        try:
            while True:
                told.clear()
                yield
                await told.wait()
        finally:
            self._leave(told, topics)

    def _enter(self, told: asyncio.Event, topics: tuple[Hashable, ...]) -> None:
        self._everybody.add(told)
        for topic in topics:
            self._waiting.setdefault(topic, set()).add(told)

    def _leave(self, told: asyncio.Event, topics: tuple[Hashable, ...]) -> None:
        self._everybody.discard(told)
        for topic in topics:
            if waiting := self._waiting.get(topic):
                waiting.discard(told)
                if not waiting:
                    del self._waiting[topic]


def _wake(waiting: "set[asyncio.Event] | tuple[()]") -> None:
    for told in waiting:
        told.set()
