"""Hundreds of clients of one process: who read nothing, and who read when it is told to leave."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from lorikeet.v1 import inference_pb2 as pb
from lorikeet.v1.inference_pb2_grpc import InferenceStub
from tests.server.front.house import PATIENCE
from tests.server.front.paced_server import NUM_TOKENS

log = logging.getLogger(__name__)
REPO = Path(__file__).parents[3]
CHILD = Path(__file__).parent / "paced_server.py"
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
# A connection has room for only so many streams; a reader that stalls should have little room of its own.
NUM_CHANNELS = 16
OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.lookahead_bytes", 16384),
    ("grpc.http2.bdp_probe", 0),
]
ANSWER = pb.GenerateRequest(prompt="x", sampling=pb.Sampling(max_new_tokens=NUM_TOKENS))
FLOOD = pb.GenerateRequest(prompt="x", sampling=pb.Sampling(max_new_tokens=NUM_TOKENS + 1))


class Child:
    """Is ready once it is made; close it."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(CHILD), *words],
            env={**os.environ, "PYTHONPATH": str(REPO)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._said = self.process.stderr or iter(())
        listening = next(line for line in self._said if line.startswith("listening on"))
        self.port = int(listening.rpartition(":")[2])
        assert next(line for line in self._said if line == "ready\n")
        # Calls that it cut, as its log tells.
        self.num_cut = 0
        self._changed = threading.Condition()
        self._listener = threading.Thread(target=self._listen)
        self._listener.start()

    def close(self) -> None:
        self.process.kill()
        self._listener.join()
        with self.process:
            pass

    def wait_cut(self, number: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.num_cut >= number, 60.0), self.num_cut

    def _listen(self) -> None:
        for line in self._said:
            with self._changed:
                self.num_cut += " RESOURCE_EXHAUSTED " in line
                self._changed.notify_all()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[list[grpc.aio.Channel]]:
        async with AsyncExitStack() as stack:
            target = f"127.0.0.1:{self.port}"
            opened = [grpc.aio.insecure_channel(target, OPTIONS) for _ in range(NUM_CHANNELS)]
            yield [await stack.enter_async_context(channel) for channel in opened]


@pytest.fixture
def start(base: Path, tmp_path: Path) -> Iterator[Callable[[float], Child]]:
    """Starts one whose readers may take nothing for so many seconds."""
    with ExitStack() as stack:

        def start_(patience: float) -> Child:
            child = Child(str(base), str(tmp_path / "store"), str(patience))
            stack.callback(child.close)
            return child

        yield start_


async def read(stub: Any) -> int:
    """How many messages an answer had."""
    return len([message async for message in stub.Generate(ANSWER, timeout=PATIENCE)])


async def verdict(call: Any) -> grpc.StatusCode:
    """The status behind what was sent and not read."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value.code()


def test_two_hundred_answers_end_when_the_server_is_told_to_leave(start: Callable[[float], Child]) -> None:
    child = start(30.0)

    async def scenario() -> tuple[float, list[int], grpc.StatusCode]:
        async with child.connect() as channels:
            stubs: list[Any] = [InferenceStub(channel) for channel in channels]
            health: Any = HealthStub(channels[0])
            watch = aiter(health.Watch(health_pb2.HealthCheckRequest()))
            assert (await anext(watch)).status == SERVING
            calls = [stubs[number % NUM_CHANNELS].Generate(ANSWER, timeout=PATIENCE) for number in range(200)]
            await asyncio.gather(*(call.initial_metadata() for call in calls))
            told = time.monotonic()
            child.process.send_signal(signal.SIGTERM)
            assert (await anext(watch)).status == NOT_SERVING
            seconds = time.monotonic() - told
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await read(stubs[1])
            lengths = [len([message async for message in call]) for call in calls]
            return seconds, lengths, refused.value.code()

    seconds, lengths, code = asyncio.run(scenario())
    log.info("NOT_SERVING %.0f ms after the signal", 1000 * seconds)
    assert code is grpc.StatusCode.UNAVAILABLE
    assert lengths == [NUM_TOKENS] * 200
    assert child.process.wait(PATIENCE) == 0
    # The bar is 0.1 s on a machine with nothing else to do.
    assert seconds < 2.0


def test_readers_that_take_nothing_are_cut_and_cost_no_memory(start: Callable[[float], Child]) -> None:
    num_stalled, child = 60, start(1.0)
    memory = psutil.Process(child.process.pid).memory_info

    async def scenario() -> tuple[int, Counter[grpc.StatusCode]]:
        async with child.connect() as channels:
            stubs: list[Any] = [InferenceStub(channel) for channel in channels]
            await asyncio.gather(*map(read, stubs))
            before = memory().rss
            stalled = [
                stubs[number % NUM_CHANNELS].Generate(FLOOD, timeout=60.0) for number in range(num_stalled)
            ]
            await asyncio.to_thread(child.wait_cut, num_stalled)
            grown = memory().rss - before
            return grown, Counter(await asyncio.gather(*map(verdict, stalled)))

    grown, codes = asyncio.run(scenario())
    log.info("%d MB more for %d stalled readers", grown >> 20, num_stalled)
    assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED: num_stalled}, codes
    assert grown < 2**30 * num_stalled / 1000, grown
