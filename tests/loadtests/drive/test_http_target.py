"""An OpenAI-compatible server, scripted, in a process of its own; and streams of broken ones."""

import asyncio
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from loadtests.drive import DriveConfig, drive
from loadtests.drive.http_target import HttpTarget
from loadtests.drive.records import Record
from loadtests.fake import Script, faking
from loadtests.workload import Answers, Arrivals, Popularity, Request, Spec, make

SPEC = Spec(
    arrivals=Arrivals(rate=200.0, duration=0.5), popularity=Popularity(adapters=3), answers=Answers(tokens=6)
)


@pytest.mark.parametrize("together", [1, 4])
def test_the_same_workload_over_http(together: int) -> None:
    workload, starts = make(SPEC), []
    script = Script(first_ms=5.0, token_ms=1.0, tokens_per_message=together, fail_every=10)
    with faking(script, "http") as fake:
        run = drive(workload, HttpTarget(f"http://{fake.address}"), DriveConfig(), begun=starts.append)
    assert {r.outcome for r in run.records if r.index % 10 == 9} == {"http_503"}
    answered = [r for r in run.records if r.index % 10 != 9]
    assert {r.outcome for r in answered} == {"ok"}
    assert {tuple(r.counts) for r in answered} == {(1,) * 6 if together == 1 else (4, 2)}
    for record in answered:
        sent = fake.book[record.index]["sent"]
        assert all(got >= at - starts[0] for got, at in zip(record.times, sent, strict=True))


def test_adapters_are_loaded_by_their_folder(adapter: Path) -> None:
    async def upload(address: str) -> str:
        connection = HttpTarget(f"http://{address}").connect()
        try:
            return await connection.upload("t", "mine", adapter)
        finally:
            await connection.close()

    with faking(Script(), "http") as fake:
        assert asyncio.run(upload(fake.address)) == "ok"


async def _ask(body: bytes, **options: Any) -> Record:
    """What is made of a stream with these bytes."""

    async def complete(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(body)
        if options.get("hangs"):
            await asyncio.Event().wait()
        if options.get("breaks"):
            assert request.transport is not None
            request.transport.abort()
        return answer

    async with _serving(complete) as url:
        connection = HttpTarget(url, timeout=options.get("timeout")).connect()
        record = Record(0, "t", "", 1, 9, 0.0)
        ticks = iter(range(100))
        try:
            await connection.ask(Request(0, 0.0, "t", "", 1, 9), [9], record, lambda: float(next(ticks)))
        finally:
            await connection.close()
    return record


@asynccontextmanager
async def _serving(complete: Any) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/completions", complete)
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


TOKEN = b'data: {"choices": [{"text": "a"}]}\n\n'
DONE = b"data: [DONE]\n\n"


def test_without_usage_each_message_is_a_token() -> None:
    record = asyncio.run(_ask(b": a comment\n\n" + TOKEN * 3 + DONE))
    assert (record.outcome, list(record.counts)) == ("ok", [1, 1, 1])
    assert record.times == array("d", sorted(record.times)) and record.end > record.times[-1]


def test_usage_at_the_end_alone_is_spread_over_the_messages() -> None:
    usage = b'data: {"choices": [], "usage": {"completion_tokens": 8}}\n\n'
    record = asyncio.run(_ask(TOKEN * 3 + usage + DONE))
    assert (record.outcome, list(record.counts)) == ("ok", [3, 3, 2])


@pytest.mark.parametrize(
    ("body", "options", "outcome"),
    [
        (TOKEN, {}, "incomplete"),
        (TOKEN + b'data: {"error": {"message": "out of memory"}}\n\n' + DONE, {}, "error"),
        (TOKEN, {"hangs": True, "timeout": 0.2}, "deadline_exceeded"),
        (TOKEN, {"breaks": True}, "connection_error"),
    ],
)
def test_a_stream_that_is_no_answer(body: bytes, options: dict[str, Any], outcome: str) -> None:
    record = asyncio.run(_ask(body, **options))
    assert record.outcome == outcome and record.tokens == 1
