"""Blocking work off the event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from typing import TypeVar

T = TypeVar("T")


async def run(pool: Executor, work: Callable[[], T]) -> T:
    """Runs to its end even if the caller is cancelled: what it works on belongs to one thread at a time."""
    future = asyncio.get_running_loop().run_in_executor(pool, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


async def together(work: Awaitable[T], beside: Awaitable[object]) -> T:
    """Both to their ends, whichever fails; raises what the first raised, or else what the second did."""
    done, other = await asyncio.gather(work, beside, return_exceptions=True)
    for each in (done, other):
        if isinstance(each, BaseException):
            raise each
    assert not isinstance(done, BaseException), "it would have been raised"
    return done
