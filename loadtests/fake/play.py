"""The script played: turns, slots, and the book of what really happened when."""

import asyncio
import json
import time
from array import array
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loadtests.fake.script import Script


@dataclass(slots=True)
class Played:
    """Of one request, on the monotonic clock: when it came, had its turn, and when each message left."""

    index: int
    came: float
    turn: float = 0.0
    load_seconds: float = 0.0
    sent: "array[float]" = field(default_factory=lambda: array("d"))


class Play:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.played: list[Played] = []
        self._held: OrderedDict[str, None] = OrderedDict()
        self._gathered = asyncio.Event()
        self._turns = asyncio.Semaphore(script.capacity) if script.capacity else None

    @asynccontextmanager
    async def turn(self, index: int, adapter: str) -> AsyncIterator[Played]:
        """Waits for the request's turn and its adapter."""
        played = Played(index, time.monotonic())
        self.played.append(played)
        if len(self.played) >= self.script.gather:
            self._gathered.set()
        await self._gathered.wait()
        if self._turns is None:
            await self._begin(played, adapter)
            yield played
            return
        async with self._turns:
            await self._begin(played, adapter)
            yield played

    async def _begin(self, played: Played, adapter: str) -> None:
        played.load_seconds = await self._load(adapter)
        played.turn = time.monotonic()

    async def messages(self, played: Played, tokens: int) -> AsyncIterator[int]:
        """Counts of tokens, each when it is due."""
        for offset, count in self.script.offsets(played.index, tokens):
            if (left := played.turn + offset - time.monotonic()) > 0:
                await asyncio.sleep(left)
            played.sent.append(time.monotonic())
            yield count

    async def _load(self, adapter: str) -> float:
        if not adapter or not self.script.slots:
            return 0.0
        if adapter in self._held:
            self._held.move_to_end(adapter)
            return 0.0
        self._held[adapter] = None
        if len(self._held) > self.script.slots:
            self._held.popitem(last=False)
        await asyncio.sleep(self.script.load_ms / 1e3)
        return self.script.load_ms / 1e3

    def write(self, file: Path) -> None:
        rows = [{"index": p.index, "came": p.came, "turn": p.turn, "sent": list(p.sent)} for p in self.played]
        file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
