"""The engine as a process of its own: talk, loss, restart."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2

from server.config import ServerConfig
from server.engine.messages import Failure, Sampling, Submit
from server.engine_process import EngineFailed, EngineProcess
from server.health import Health
from server.link import EngineLost
from server.spawn import spawn, spawn_engine
from server.trials import MAX_LOSSES
from tests.toys import drive

pytestmark = pytest.mark.usefixtures("warm_engines")

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


def test_streams_are_those_of_an_engine_in_process_and_abort_frees_all(
    zoo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a process that starts as servers start it."""
    monkeypatch.setattr("server.spawn.spawn", spawn)
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


def test_a_killed_engine_costs_a_pause_and_not_one_token(zoo: Any) -> None:
    driven = drive(zoo.base, zoo.store)
    wanted = [
        (digest, {"max_new_tokens": 150, **sampling})
        for digest in ("", zoo.digests["rank4"], zoo.digests["rank8-rs"])
        for sampling in ({}, {"temperature": 0.9, "seed": 3})
    ]
    expected = [driven.answers(driven.submit(PROMPT, digest, **options))[0] for digest, options in wanted]

    async def scenario() -> None:
        async with running(zoo) as link:
            first = link.pid

            async def kill_once(num_tokens: int) -> None:
                if num_tokens > 20 and link.pid == first:
                    os.kill(first, signal.SIGKILL)

            watched, *others = [request(link, digest, **options) for digest, options in wanted]
            answers = [collect(link, watched, kill_once), *(collect(link, each) for each in others)]
            assert await asyncio.gather(*answers) == expected
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


def test_who_waits_for_an_adapter_is_woken_by_its_coming_and_by_no_step(zoo: Any) -> None:
    """A new engine has it nowhere until it was brought there again."""
    digest = zoo.digests["rank4"]

    async def scenario() -> None:
        async with running(zoo) as link:
            looks = 0

            async def look() -> None:
                nonlocal looks
                async for _ in link.news.looks():
                    looks += 1

            looking = asyncio.create_task(look())
            await collect(link, request(link, digest, max_new_tokens=2))
            assert (set(link.places.resident), set(link.places.on_host)) == ({digest}, {digest})
            seen = looks
            await collect(link, request(link, digest, max_new_tokens=40))
            assert looks == seen
            os.kill(link.pid, signal.SIGKILL)
            await collect(link, request(link, "", max_new_tokens=2))
            assert (set(link.places.resident), set(link.places.on_host)) == (set(), set())
            looking.cancel()

    asyncio.run(scenario())


def test_a_request_that_kills_every_engine_fails_alone(zoo: Any) -> None:
    """Each engine dies before it has said a word; what comes after is served."""

    async def scenario() -> None:
        async with running(zoo) as link:
            killer = asyncio.create_task(kill_engines(link, MAX_LOSSES + 1))
            with pytest.raises(EngineLost, match="over and over"):
                await collect(link, request(link, "", max_new_tokens=240))
            await killer
            assert len(await collect(link, request(link, "", max_new_tokens=8))) == 8

    asyncio.run(scenario())


@pytest.mark.parametrize("num_poisons", [2, *(pytest.param(each, marks=pytest.mark.long) for each in (1, 3))])
def test_poisons_are_found_among_others_and_they_are_answered(
    zoo: Any, monkeypatch: pytest.MonkeyPatch, num_poisons: int
) -> None:
    """The engine dies whenever it is given one of those requests, whoever else is there.

    With two that is more often in a row than it would be started again if no culprit were found.
    """
    driven = drive(zoo.base, zoo.store)
    (expected,) = driven.answers(driven.submit(PROMPT, max_new_tokens=8))

    async def scenario() -> None:
        async with running(zoo) as link:
            poisons = [request(link, "", max_new_tokens=8) for _ in range(num_poisons)]
            deadly = {poison.id for poison in poisons}
            send = link._send

            def kill_by_poison(command: Any) -> None:
                send(command)
                if isinstance(command, Submit) and command.id in deadly and link.ready is not None:
                    os.kill(link.pid, signal.SIGKILL)

            monkeypatch.setattr(link, "_send", kill_by_poison)
            guilty = [asyncio.create_task(collect(link, poison)) for poison in poisons]
            asked = [
                asyncio.create_task(collect(link, request(link, "", max_new_tokens=8))) for _ in range(4)
            ]
            assert await asyncio.gather(*asked) == [expected] * 4
            for each in guilty:
                with pytest.raises(EngineLost, match="over and over"):
                    await each
            assert await collect(link, request(link, "", max_new_tokens=8)) == expected

    asyncio.run(scenario())


def test_an_engine_that_dies_while_it_comes_back_is_started_once_more(
    zoo: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    driven = drive(zoo.base, zoo.store)
    (expected,) = driven.answers(driven.submit(PROMPT, max_new_tokens=60))
    spawned: list[int] = []

    async def spawn(folder: Path, config: Any) -> asyncio.subprocess.Process:
        process = await spawn_engine(folder, config)
        spawned.append(process.pid)
        if len(spawned) == 2:
            process.kill()
        return process

    monkeypatch.setattr("server.engine_child.spawn_engine", spawn)

    async def scenario() -> None:
        async with running(zoo) as link:

            async def kill_once(num_tokens: int) -> None:
                if num_tokens > 5 and link.pid == spawned[0]:
                    os.kill(link.pid, signal.SIGKILL)

            assert await collect(link, request(link, "", max_new_tokens=60), kill_once) == expected
            assert len(spawned) == 3 and link.pid == spawned[2]

    asyncio.run(scenario())


def test_engines_that_cannot_start_again_never_stand_beside_each_other(
    zoo: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The base has gone: each says so and ends before the next one takes memory, until it is enough."""
    spawned: list[asyncio.subprocess.Process] = []

    async def spawn(folder: Path, config: Any) -> asyncio.subprocess.Process:
        assert [process.pid for process in spawned if process.returncode is None] == []
        # What the engine of the zoo was started with, but for the base.
        process = await spawn_engine(folder, replace(config, base=str(tmp_path)) if spawned else config)
        spawned.append(process)
        return process

    monkeypatch.setattr("server.engine_child.spawn_engine", spawn)
    monkeypatch.setattr("server.engine_process.MAX_FRUITLESS_STARTS", 2)

    async def scenario() -> None:
        async with running(zoo) as link:
            waiting = asyncio.create_task(collect(link, request(link, "", max_new_tokens=240)))
            os.kill(link.pid, signal.SIGKILL)
            with pytest.raises(EngineLost, match="again and again"):
                await waiting
            assert len(spawned) == 3

    asyncio.run(scenario())


async def kill_engines(link: EngineProcess, kills: int) -> None:
    """Each as soon as it is ready."""
    killed: set[int] = set()
    while len(killed) < kills:
        if link.ready is not None and link.pid not in killed:
            killed.add(link.pid)
            os.kill(link.pid, signal.SIGKILL)
        await asyncio.sleep(0)


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_every_stream_survives_every_kill_token_for_token(zoo: Any, kills: int) -> None:
    """Greedy and seeded, base and adapters, all at once; an engine dies whenever ten more tokens are out."""
    driven = drive(zoo.base, zoo.store)
    wanted = [
        # Long enough for the kills, and as long as the context allows.
        (digest, {"max_new_tokens": min(240, 30 + 10 * kills), **sampling})
        for digest in ("", zoo.digests["rank4"], zoo.digests["rank8-rs"])
        for sampling in ({}, {"temperature": 0.9, "seed": 3}, {"temperature": 0.7, "seed": 4, "top_p": 0.8})
    ]
    expected = [driven.answers(driven.submit(PROMPT, digest, **options))[0] for digest, options in wanted]
    killed: set[int] = set()

    async def scenario() -> None:
        async with running(zoo) as link:

            async def kill(num_tokens: int) -> None:
                if (
                    num_tokens >= 10 * (len(killed) % 20 + 1)
                    and len(killed) < kills
                    and link.pid not in killed
                ):
                    killed.add(link.pid)
                    os.kill(link.pid, signal.SIGKILL)

            while len(killed) < kills:
                asked = [collect(link, request(link, digest, **options), kill) for digest, options in wanted]
                assert await asyncio.gather(*asked) == expected

    asyncio.run(scenario())
    assert len(killed) == kills


def test_an_engine_that_hangs_is_noticed_killed_and_replaced(zoo: Any) -> None:
    """Stopped as a whole: its sockets stand, its process lives, and it says nothing."""
    driven = drive(zoo.base, zoo.store)
    (expected,) = driven.answers(driven.submit(PROMPT, max_new_tokens=60))

    async def scenario() -> None:
        async with running(zoo, hang_seconds=5.0) as link:
            first = link.pid
            health = Health(link, ["service"])
            await health.start()
            stopped_at = 0.0

            async def stop_once(num_tokens: int) -> None:
                nonlocal stopped_at
                if num_tokens > 5 and not stopped_at:
                    stopped_at = time.monotonic()
                    os.kill(first, signal.SIGSTOP)

            answer = asyncio.create_task(collect(link, request(link, "", max_new_tokens=60), stop_once))
            while not stopped_at or await told(health) == SERVING:
                await asyncio.sleep(0.05)
            assert time.monotonic() - stopped_at < 5.0
            assert await answer == expected
            assert link.pid != first
            while await told(health) != SERVING:
                await asyncio.sleep(0.05)
            await health.close()

    asyncio.run(scenario())


def test_an_engine_that_hangs_is_replaced_although_everybody_gives_up_sooner(zoo: Any) -> None:
    """One call after another, none of which waits as long as a hang takes to be one."""

    async def scenario() -> None:
        async with running(zoo, hang_seconds=5.0) as link:
            first = link.pid
            os.kill(first, signal.SIGSTOP)
            answer: list[int] = []
            while not answer:
                with suppress(TimeoutError):
                    async with asyncio.timeout(1.5 if link.pid == first else 60.0):
                        answer = await collect(link, request(link, "", max_new_tokens=8))
            assert len(answer) == 8 and link.pid != first

    asyncio.run(scenario())


SERVING = health_pb2.HealthCheckResponse.SERVING


async def told(health: Health) -> int:
    """What a check says."""
    answer = await health.servicer.Check(health_pb2.HealthCheckRequest(service="service"), None)
    return int(answer.status)


def test_silence_of_an_engine_without_work_is_no_hang(zoo: Any) -> None:
    async def scenario() -> None:
        async with running(zoo, hang_seconds=5.0) as link:
            first = link.pid
            link._pulse._heard_at -= 100.0
            assert link.is_alive
            assert len(await collect(link, request(link, "", max_new_tokens=8))) == 8
            assert link.pid == first

    asyncio.run(scenario())
