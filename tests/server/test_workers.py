"""Work off the event loop, and two works side by side."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from server.workers import run, together


class Failed(Exception):
    pass


async def give(value: int) -> int:
    return value


async def fail(why: str) -> int:
    raise Failed(why)


def test_the_first_one_s_result_comes_once_both_are_done() -> None:
    order = []

    async def slow() -> None:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        order.append("beside")

    async def both() -> None:
        order.append(str(await together(give(3), slow())))

    asyncio.run(both())
    assert order == ["beside", "3"]


@pytest.mark.parametrize(("first", "second", "told"), [("a", None, "a"), (None, "b", "b"), ("a", "b", "a")])
def test_whichever_fails_the_other_ends_first(first: str | None, second: str | None, told: str) -> None:
    ended = []

    async def work(why: str | None) -> int:
        for _ in range(3):
            await asyncio.sleep(0)
        ended.append(why)
        return await (fail(why) if why else give(1))

    with pytest.raises(Failed, match=told):
        asyncio.run(together(work(first), work(second)))
    assert len(ended) == 2


def test_who_is_cancelled_waits_for_what_runs_on_a_thread() -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), []

    def work() -> None:
        begun.set()
        may_end.wait(10)
        ended.append(True)

    async def cancel() -> None:
        with ThreadPoolExecutor(1) as pool:
            task = asyncio.ensure_future(together(asyncio.Event().wait(), run(pool, work)))
            await asyncio.to_thread(begun.wait, 10)
            task.cancel()
            asyncio.get_running_loop().call_soon(may_end.set)
            with pytest.raises(asyncio.CancelledError):
                await task
            assert ended == [True]

    asyncio.run(cancel())
