"""The driver's own reader against grpcio's server: what it makes of every way an answer can go."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from loadtests.drive.grpc_target import GrpcConnection, GrpcTarget
from loadtests.drive.records import Record
from loadtests.drive.tls import Tls
from loadtests.workload import Request
from lorikeet.v1 import inference_pb2, inference_pb2_grpc
from tests.server.front.authority import Authority, Pair

Answer = inference_pb2.GenerateResponse
Behaviour = Callable[[Any, Any], AsyncIterator[Answer]]


class Servicer(inference_pb2_grpc.InferenceServicer):
    def __init__(self, behaviour: Behaviour) -> None:
        self.Generate = behaviour  # type: ignore[method-assign]

    async def GetModel(self, request: Any, context: Any) -> inference_pb2.Model:
        return inference_pb2.Model(name="m", vocab_size=9, max_context=99)


@asynccontextmanager
async def connected(
    behaviour: Behaviour, timeout: float | None = None, pair: Pair | None = None, tls: Tls | None = None
) -> AsyncIterator[tuple[GrpcConnection, grpc.aio.Server]]:
    server = grpc.aio.server()
    inference_pb2_grpc.add_InferenceServicer_to_server(Servicer(behaviour), server)  # type: ignore[no-untyped-call]
    if pair is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials([(pair.key, pair.certificate)])
        port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    target = GrpcTarget(
        f"localhost:{port}" if tls else f"127.0.0.1:{port}", timeout, 5.0, {"t": "secret"}, tls
    )
    connection = target.connect()
    try:
        await connection.describe()
        yield connection, server
    finally:
        await connection.close()
        await server.stop(None)


def trusting(authority: Authority, folder: Path) -> Tls:
    ca = folder / "ca.pem"
    ca.write_bytes(authority.certificate)
    return Tls(ca)


def new(index: int) -> Record:
    return Record(index, "t", "a", 1, 5, 0.0)


async def ask(connection: GrpcConnection, prompt: int = 1, record: Record | None = None) -> Record:
    record = record or new(7)
    request = Request(record.index, 0.0, "t", "a", prompt, 5)
    await connection.ask(request, [3] * prompt, record, asyncio.get_running_loop().time)
    return record


async def begun(asked: "asyncio.Task[Record]", record: Record) -> None:
    while not record.times and not asked.done():
        await asyncio.sleep(0)


def run(behaviour: Behaviour, **options: Any) -> Record:
    async def main() -> Record:
        async with connected(behaviour, **options) as (connection, _):
            return await ask(connection)

    return asyncio.run(main())


async def said(request: Any, context: Any) -> AsyncIterator[Answer]:
    """What the request had, told in the answer."""
    metadata = dict(context.invocation_metadata())
    version = f"{request.adapter_id} {metadata['authorization']} {context.time_remaining() is None}"
    started = inference_pb2.Started(adapter_version=version, adapter_digest=str(len(request.token_ids.ids)))
    yield Answer(token_ids=[1], started=started)
    yield Answer(text="no token in it")
    usage = inference_pb2.Usage(load_seconds=0.5)
    yield Answer(token_ids=[1, 2], finished=inference_pb2.Finished(usage=usage))


def test_an_answer_is_in_its_record() -> None:
    record = run(said)
    assert (record.outcome, record.version, record.digest) == ("ok", "a Bearer secret True", "1")
    assert list(record.counts) == [1, 2] and record.load_seconds == 0.5
    assert record.sent < record.times[0] <= record.times[1] <= record.end


def test_over_tls_and_with_a_deadline_that_the_server_knows(tmp_path: Path) -> None:
    authority = Authority()
    pair, tls = authority.issue("localhost"), trusting(authority, tmp_path)
    record = run(said, pair=pair, tls=tls, timeout=60.0)
    assert (record.outcome, record.version) == ("ok", "a Bearer secret False")


def test_an_authority_that_is_not_the_servers(tmp_path: Path) -> None:
    authority = Authority()
    pair, tls = authority.issue("localhost"), trusting(authority, tmp_path)

    async def main() -> Record:
        async with connected(said, pair=pair, tls=tls) as (right, _):
            wrong = GrpcTarget(right._target.address, tls=trusting(Authority(), tmp_path)).connect()
            try:
                return await ask(wrong)
            finally:
                await wrong.close()

    record = asyncio.run(main())
    assert record.outcome == "unavailable" and "certificate verify failed" in record.reason


def test_prompts_and_messages_larger_than_windows_and_frames() -> None:
    async def many(request: Any, context: Any) -> AsyncIterator[Answer]:
        yield Answer(token_ids=request.token_ids.ids)
        yield Answer(token_ids=[1])

    async def main() -> list[Record]:
        async with connected(many) as (connection, _):
            return await asyncio.gather(*(ask(connection, prompt) for prompt in (300_000, 70_000, 1)))

    records = asyncio.run(main())
    assert {record.outcome for record in records} == {"ok"}
    assert [list(record.counts) for record in records] == [[300_000, 1], [70_000, 1], [1, 1]]


@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
@pytest.mark.parametrize("tokens", [0, 2])
def test_every_status_and_its_reason(code: grpc.StatusCode, tokens: int) -> None:
    async def refuse(request: Any, context: Any) -> AsyncIterator[Answer]:
        for _ in range(tokens):
            yield Answer(token_ids=[1])
        await context.abort(code, "größer als 100 %\nund so")

    record = run(refuse)
    assert (record.outcome, record.reason) == (code.name.lower(), "größer als 100 %\nund so")
    assert record.tokens == tokens and record.end >= record.sent


async def endless(cancelled: asyncio.Event, request: Any, context: Any) -> AsyncIterator[Answer]:
    try:
        yield Answer(token_ids=[1])
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        cancelled.set()
        raise


def test_a_deadline_and_a_cut_off_are_told_to_the_server() -> None:
    async def main(timeout: float | None, end: Callable[[asyncio.Task[Record]], Awaitable[Any]]) -> Record:
        cancelled = asyncio.Event()
        async with connected(partial(endless, cancelled), timeout) as (connection, _):
            task = asyncio.create_task(ask(connection, record=(record := new(7))))
            await begun(task, record)
            await end(task)
            await asyncio.wait_for(cancelled.wait(), 10)
        return record

    async def cut_off(task: asyncio.Task[Record]) -> None:
        task.cancel()
        await asyncio.wait([task])

    async def wait(task: asyncio.Task[Record]) -> None:
        await task

    late = asyncio.run(main(0.3, wait))
    assert late.outcome == "deadline_exceeded" and late.tokens == 1
    cut = asyncio.run(main(None, cut_off))
    assert cut.is_cut_off and cut.tokens == 1


def test_a_server_that_drains_ends_what_it_has_and_takes_no_more() -> None:
    async def main() -> tuple[Record, Record]:
        go_on = asyncio.Event()

        async def slow(request: Any, context: Any) -> AsyncIterator[Answer]:
            yield Answer(token_ids=[1])
            if request.sampling.seed == 0:
                await go_on.wait()
            yield Answer(token_ids=[2])

        async with connected(slow) as (connection, server):
            asked = asyncio.create_task(ask(connection, record=(first := new(0))))
            await begun(asked, first)
            stopping = asyncio.create_task(server.stop(30))
            # A call that crosses the server's word on the way is cancelled.
            while (second := await ask(connection)).outcome in ("ok", "cancelled"):
                pass
            go_on.set()
            await asyncio.gather(asked, stopping)
        return first, second

    first, second = asyncio.run(main())
    assert (first.outcome, first.tokens) == ("ok", 2)
    assert second.outcome == "unavailable" and second.reason
