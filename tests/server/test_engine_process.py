"""The engine as a process of its own: talk, loss, restart."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from server.config import ServerConfig
from server.engine.messages import Failure, Sampling, Submit
from server.engine_process import EngineFailed, EngineProcess
from server.link import EngineLost
from tests.toys import drive

PROMPT = [5, 6, 7, 8, 9]


def request(link: EngineProcess, adapter: str, **sampling: Any) -> Submit:
    return Submit(
        id=link.new_id(),
        tenant="default",
        adapter=adapter,
        tokens=PROMPT,
        sampling=Sampling(**sampling),
        arrived_at=0.0,
    )


@asynccontextmanager
async def running(zoo: Any, **options: Any) -> AsyncIterator[EngineProcess]:
    config = ServerConfig(
        base=str(zoo.base),
        adapter_store=zoo.store,
        threads=1,
        cache_tokens=4096,
        debug_checks=True,
        **options,
    )
    link = EngineProcess(config)
    await link.start()
    try:
        yield link
    finally:
        await link.stop()


async def collect(
    link: EngineProcess, asked: Submit, after: Callable[[int], Awaitable[None]] | None = None
) -> list[int]:
    """The answer; `after(tokens so far)` runs between items."""
    tokens: list[int] = []
    async for news in link.submit(asked):
        assert not isinstance(news, Failure)
        tokens += [token.token for token in news]
        if after is not None:
            await after(len(tokens))
    return tokens


def test_streams_are_those_of_an_engine_in_process_and_abort_frees_all(zoo: Any) -> None:
    driven = drive(zoo.base, zoo.store)
    expected = [driven.answers(driven.submit(PROMPT, d, max_new_tokens=10))[0] for d in zoo.digests.values()]

    async def scenario() -> None:
        async with running(zoo) as link:
            assert link.ready is not None and link.ready.max_context == 256
            asked = [collect(link, request(link, d, max_new_tokens=10)) for d in zoo.digests.values()]
            assert await asyncio.gather(*asked) == expected
            stream = link.submit(request(link, "", max_new_tokens=200))
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            while link.stats is None or link.stats.running or link.stats.blocks_used:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 3}])
def test_a_killed_engine_costs_a_pause_and_not_one_token(zoo: Any, sampling: dict[str, Any]) -> None:
    driven = drive(zoo.base, zoo.store)
    digests = ["", zoo.digests["rank4"], zoo.digests["rank8-rs"]]
    options = {"max_new_tokens": 150, **sampling}
    expected = [driven.answers(driven.submit(PROMPT, digest, **options))[0] for digest in digests]

    async def scenario() -> None:
        async with running(zoo) as link:
            first = link.pid

            async def kill_once(num_tokens: int) -> None:
                if num_tokens > 20 and link.pid == first:
                    os.kill(first, signal.SIGKILL)

            watched = collect(link, request(link, digests[0], **options), kill_once)
            others = [collect(link, request(link, d, **options)) for d in digests[1:]]
            assert await asyncio.gather(watched, *others) == expected
            assert link.pid != first

    asyncio.run(scenario())


def test_an_engine_that_cannot_start_says_why(zoo: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        link = EngineProcess(ServerConfig(base=str(tmp_path)))
        with pytest.raises(EngineFailed):
            await link.start()

    asyncio.run(scenario())


def test_stopping_ends_open_streams_with_a_word(zoo: Any) -> None:
    async def scenario() -> None:
        async with running(zoo) as link:
            stream = link.submit(request(link, "", max_new_tokens=240))
            await anext(stream)
            pid = link.pid
        with pytest.raises(EngineLost):
            async for _ in stream:
                pass
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    asyncio.run(scenario())


def test_requests_made_while_the_engine_is_being_lost_are_answered_by_the_next(zoo: Any) -> None:
    expected = drive(zoo.base, zoo.store)
    (answer,) = expected.answers(expected.submit(PROMPT, max_new_tokens=8))

    async def scenario() -> None:
        async with running(zoo) as link:
            os.kill(link.pid, signal.SIGKILL)
            asked = [
                asyncio.create_task(collect(link, request(link, "", max_new_tokens=8))) for _ in range(4)
            ]
            gone = link.submit(request(link, "", max_new_tokens=200))
            left = asyncio.create_task(anext(gone))
            await asyncio.sleep(0)
            left.cancel()
            assert await asyncio.gather(*asked) == [answer] * 4
            while link.stats is None or link.stats.running:
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_a_request_that_kills_every_engine_fails_alone(zoo: Any) -> None:
    async def scenario() -> None:
        async with running(zoo) as link:
            pids = set()

            async def kill_each(num_tokens: int) -> None:
                if link.ready is not None and link.pid not in pids:
                    pids.add(link.pid)
                    os.kill(link.pid, signal.SIGKILL)

            with pytest.raises(EngineLost, match="over and over"):
                await collect(link, request(link, "", max_new_tokens=240), kill_each)
            assert len(await collect(link, request(link, "", max_new_tokens=8))) == 8

    asyncio.run(scenario())
