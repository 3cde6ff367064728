"""One at a time; those who wait take turns by tenant."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

Line = deque["asyncio.Future[None]"]


class FairLock:
    """Belongs to the event loop. Behind whoever has the turn, a tenant waits for one of each other tenant."""

    def __init__(self) -> None:
        self._is_taken = False
        # The tenant that is served next first.
        self._lines: OrderedDict[str, Line] = OrderedDict()

    @asynccontextmanager
    async def turn(self, tenant: str, patience: float) -> AsyncIterator[None]:
        """The turn, until the block ends. Raises TimeoutError if it does not come for so many seconds."""
        await self._wait(tenant, patience)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, tenant: str, patience: float) -> None:
        if not self._is_taken:
            self._is_taken = True
            return
        place = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, deque()).append(place)
        try:
            async with asyncio.timeout(patience):
                await place
        except BaseException:
            if not place.cancelled():
                # The turn came in the moment in which it was given up.
                self._pass_on()
            raise

    def _pass_on(self) -> None:
        place = self._next()
        if place is None:
            self._is_taken = False
        else:
            place.set_result(None)

    def _next(self) -> "asyncio.Future[None] | None":
        """Those who gave up cost their tenant no turn."""
        while self._lines:
            tenant, line = self._lines.popitem(last=False)
            while line and line[0].cancelled():
                line.popleft()
            if line:
                place = line.popleft()
                if line:
                    self._lines[tenant] = line
                return place
        return None
