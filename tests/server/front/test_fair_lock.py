"""The lock: one at a time, and no tenant waits for two of another's."""

import asyncio
from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.fair_lock import FairLock

# Number and tenant.
Visitor = tuple[int, str]


class Room:
    """Those who want a turn; whoever has it keeps it until `finish`."""

    def __init__(self) -> None:
        self.lock = FairLock()
        self.waiting: dict[Visitor, asyncio.Task[None]] = {}
        self.served: list[Visitor] = []
        self.done = asyncio.Event()
        self._numbers = count()

    async def ask(self, tenant: str, patience: float = 1e6) -> Visitor:
        visitor = next(self._numbers), tenant
        self.waiting[visitor] = asyncio.create_task(self._visit(visitor, patience))
        await settle()
        return visitor

    async def leave(self, visitor: Visitor) -> None:
        self.waiting.pop(visitor).cancel()
        await settle()

    async def finish(self) -> None:
        self.done.set()
        await settle()

    async def _visit(self, visitor: Visitor, patience: float) -> None:
        async with self.lock.turn(visitor[1], patience):
            del self.waiting[visitor]
            self.served.append(visitor)
            self.done.clear()
            await self.done.wait()


async def settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


STEPS: list[str | int] = ["a", "a", "b", "c", "finish", "finish", 0, 5]


@given(st.lists(st.sampled_from(STEPS), max_size=60))
def test_nobody_waits_for_two_of_another_tenant(steps: list[str | int]) -> None:
    """Letters ask for a turn, numbers stand for one who gives up waiting."""

    async def scenario() -> None:
        room = Room()
        # Of each tenant that waits: who was served since it does.
        since: dict[str, Counter[str]] = {}
        for step in steps:
            num_served = len(room.served)
            if step == "finish":
                await room.finish()
            elif isinstance(step, str):
                await room.ask(step)
            elif room.waiting:
                await room.leave(list(room.waiting)[step % len(room.waiting)])
            for _, tenant in room.served[num_served:]:
                since.pop(tenant, None)
                for counter in since.values():
                    counter[tenant] += 1
            since = {tenant: since.get(tenant, Counter()) for _, tenant in room.waiting}
            assert all(most <= 1 for counter in since.values() for most in counter.values())
        while room.waiting:
            await room.finish()
        await room.finish()
        assert not room.lock._is_taken and not room.lock._lines
        for each in "abc":
            numbers = [number for number, tenant in room.served if tenant == each]
            assert numbers == sorted(numbers), "a tenant's own come in order"

    asyncio.run(scenario())


def test_a_turn_that_comes_as_it_is_given_up_goes_to_the_next() -> None:
    async def scenario() -> None:
        room = Room()
        first, second, third = [await room.ask(tenant) for tenant in "abc"]
        room.done.set()
        # The first one passes it on; the second has not run yet.
        await asyncio.sleep(0)
        assert room.served == [first]
        await room.leave(second)
        assert room.served == [first, third]
        await room.finish()
        await room.ask("a")
        assert len(room.served) == 3
        await room.finish()

    asyncio.run(scenario())


def test_who_waits_too_long_is_told_and_takes_no_turn() -> None:
    async def scenario() -> None:
        lock = FairLock()
        async with lock.turn("a", 0.0):
            with pytest.raises(TimeoutError):
                async with lock.turn("b", 0.0):
                    raise AssertionError("nobody has ended")
        async with lock.turn("c", 0.0):
            pass

    asyncio.run(scenario())
