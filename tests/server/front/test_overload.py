"""Ten times as many requests as there is capacity for: what is let in is served as if they were not there."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest

from lorikeet.v1 import inference_pb2 as pb
from lorikeet.v1.inference_pb2_grpc import InferenceStub
from server.engine.messages import Failure, Started, Submit, Token
from tests.server.front.house import FakeLink, House, Open

log = logging.getLogger(__name__)

# Of the engine: sequences at once, tokens of an answer, seconds of a step.
NUM_PLACES, NUM_TOKENS, STEP_SECONDS = 4, 5, 0.1
CAPACITY = NUM_PLACES / (NUM_TOKENS * STEP_SECONDS)
QUEUE_LIMIT = 2 * NUM_PLACES
# Of clients: one connection alone has room for only so many calls.
NUM_CHANNELS = 8
OPTIONS = [("grpc.use_local_subchannel_pool", 1)]


class PacedLink(FakeLink):
    """An engine as quick as it says, whoever else uses this machine."""

    def __init__(self) -> None:
        super().__init__()
        self._places = asyncio.Semaphore(NUM_PLACES)

    async def submit(self, request: Submit) -> AsyncIterator[list[Token] | Failure]:
        async with self._places:
            for number in range(NUM_TOKENS):
                await asyncio.sleep(STEP_SECONDS)
                finish = "length" if number == NUM_TOKENS - 1 else ""
                yield [Token(request.id, 40, finish, None if number else Started(0, 0.0, 0.0))]


@dataclass
class Clients:
    """`seconds`: of the answers that were given; `codes`: of all calls, which go over the stubs in turn."""

    stubs: Sequence[Any]
    seconds: list[float] = field(default_factory=list)
    codes: "Counter[grpc.StatusCode]" = field(default_factory=Counter)

    async def ask(self) -> None:
        began = time.monotonic()
        stub = self.stubs[self.codes.total() % len(self.stubs)]
        try:
            async for _ in stub.Generate(pb.GenerateRequest(prompt="x"), timeout=60.0):
                pass
        except grpc.aio.AioRpcError as error:
            self.codes[error.code()] += 1
            if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                log.error("%s", error)
        else:
            self.codes[grpc.StatusCode.OK] += 1
            self.seconds.append(time.monotonic() - began)

    async def keep_full(self, seconds: float) -> None:
        """As many at once as are let in, each after its last."""
        end = time.monotonic() + seconds

        async def one() -> None:
            while time.monotonic() < end:
                await self.ask()

        await asyncio.gather(*(one() for _ in range(QUEUE_LIMIT)))

    async def flood(self, rate: float, seconds: float) -> None:
        """Whether or not those before have ended."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                group.create_task(self.ask())
                await asyncio.sleep(max(0.0, began + (number + 1) / rate - loop.time()))

    @property
    def p99(self) -> float:
        return sorted(self.seconds)[int(len(self.seconds) * 0.99)]


@pytest.mark.parametrize("seconds", [2.0, pytest.param(60.0, marks=pytest.mark.long)])
def test_ten_times_the_capacity(open_house: Open, seconds: float) -> None:
    house: House = open_house(link=PacedLink(), queue_limit=QUEUE_LIMIT)
    target = f"127.0.0.1:{house.front.port}"

    async def scenario() -> tuple[Clients, Clients, float]:
        async with AsyncExitStack() as stack:
            opened = [grpc.aio.insecure_channel(target, OPTIONS) for _ in range(NUM_CHANNELS)]
            stubs = [InferenceStub(await stack.enter_async_context(channel)) for channel in opened]
            full, flooded, after = (Clients(stubs) for _ in range(3))
            await full.keep_full(seconds)
            await flooded.flood(10 * CAPACITY, seconds)
            await after.ask()
            return full, flooded, after.seconds[0]

    future = asyncio.run_coroutine_threadsafe(scenario(), house.loop.loop)
    full, flooded, recovered = future.result(10 * seconds + 60)
    assert full.codes.keys() == {grpc.StatusCode.OK}
    assert flooded.codes.keys() == {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
    goodput = len(flooded.seconds) / len(full.seconds)
    figures = (
        f"{goodput:.2f} of capacity, p99 {flooded.p99:.2f} s where {full.p99:.2f} s, then {recovered:.2f} s"
    )
    log.info(figures)
    if seconds > 10.0:
        # Times of a few answers are this machine's and not the server's.
        assert goodput >= 0.9, figures
        assert flooded.p99 <= 1.5 * full.p99, figures
    assert recovered < 5.0, figures
