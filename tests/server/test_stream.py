import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server.engine.messages import Failure, Sampling, Started, Submit, Token
from server.link import EngineLost
from server.stream import Stream

REQUEST = Submit(id=1, tenant="t", adapter="", tokens=[7, 8], sampling=Sampling(), arrived_at=0.0)
NEVER = 3600.0


def token(number: int, finish: str = "", started: bool = False) -> Token:
    return Token(1, number, finish, Started(0, 0.0, 0.0) if started else None)


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(scenario(), 20)

    asyncio.run(bounded())


async def numbers(stream: Stream) -> list[int]:
    news = await stream.take()
    assert not isinstance(news, Failure)
    return [t.token for t in news]


def test_first_and_last_are_told_at_once_and_the_rest_together() -> None:
    async def scenario() -> None:
        stream = Stream(REQUEST, NEVER)
        stream.put(token(1, started=True))
        assert await numbers(stream) == [1]
        for number in (2, 3):
            stream.put(token(number))
        waiting = asyncio.create_task(numbers(stream))
        await asyncio.sleep(0)
        assert not waiting.done()
        stream.put(token(4, finish="stop"))
        assert await waiting == [2, 3, 4]

    run(scenario)


def test_an_interval_later_there_is_news_without_an_end() -> None:
    async def scenario() -> None:
        stream = Stream(REQUEST, 0.01)
        stream.put(token(1))
        assert await numbers(stream) == [1]
        stream.put(token(2))
        assert await numbers(stream) == [2]

    run(scenario)


def test_a_slow_reader_takes_all_and_is_not_woken_for_nothing() -> None:
    async def scenario() -> None:
        stream = Stream(REQUEST, 0.001)
        for number in (1, 2, 3):
            stream.put(token(number))
        assert await numbers(stream) == [1, 2, 3]
        waiting = asyncio.create_task(numbers(stream))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        stream.put(token(4))
        assert await waiting == [4]

    run(scenario)


def test_tokens_that_nobody_takes_set_no_timers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand stalled readers each would else cost the others a timer for each token."""

    async def scenario() -> None:
        stream = Stream(REQUEST, 0.0)
        stream.put(token(1))
        for number in (2, 3):
            stream.put(token(number))
            await asyncio.sleep(0)
        assert timers == []
        assert await numbers(stream) == [1, 2, 3]
        stream.put(token(4))
        assert len(timers) == 1
        assert await numbers(stream) == [4]

    timers: list[float] = []
    call_at = asyncio.BaseEventLoop.call_at

    def counted(self: asyncio.BaseEventLoop, when: float, *what: Any, **more: Any) -> asyncio.TimerHandle:
        if getattr(what[0], "__func__", None) is Stream._wake:
            timers.append(when)
        return call_at(self, when, *what, **more)

    monkeypatch.setattr(asyncio.BaseEventLoop, "call_at", counted)
    run(scenario)


@pytest.mark.parametrize("end", [Failure(1, "internal", "x"), EngineLost("gone")])
def test_what_came_before_a_failure_is_read_first(end: Failure | EngineLost) -> None:
    async def scenario() -> None:
        stream = Stream(REQUEST, NEVER)
        stream.put(token(1))
        assert await numbers(stream) == [1]
        stream.put(token(2))
        stream.fail(end)
        assert await numbers(stream) == [2]
        if isinstance(end, EngineLost):
            with pytest.raises(EngineLost):
                await stream.take()
        else:
            assert await stream.take() == end

    run(scenario)


def test_a_resubmission_carries_the_answer_so_far_and_starts_only_once() -> None:
    async def scenario() -> None:
        stream = Stream(REQUEST, 0.0)
        for number in (1, 2):
            stream.put(token(number, started=number == 1))
        again = stream.resubmission()
        assert (again.tokens, again.num_answered) == ([7, 8, 1, 2], 2)
        stream.put(token(3, finish="stop", started=True))
        news = await stream.take()
        assert not isinstance(news, Failure)
        assert [t.started is not None for t in news] == [True, False, False]

    run(scenario)
