"""Clients of every bad habit against a real server, and what its processes hold meanwhile."""

import asyncio
import random
import statistics
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import psutil
from prometheus_client.parser import text_string_to_metric_families

from lorikeet.v1 import inference_pb2 as pb
from lorikeet.v1.inference_pb2_grpc import InferenceStub

Code = grpc.StatusCode
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 500))
NUM_CHANNELS = 8
# What may become of each kind of call.
ENDS = {
    "read": {Code.OK},
    "cancel": {Code.OK, Code.CANCELLED},
    "deadline": {Code.OK, Code.DEADLINE_EXCEEDED},
    "disconnect": {Code.OK, Code.CANCELLED},
    "slow": {Code.OK, Code.CANCELLED, Code.RESOURCE_EXHAUSTED},
    "bad": {Code.INVALID_ARGUMENT, Code.NOT_FOUND},
}
# That must be 0 once nobody asks any more.
AT_REST = (
    "num_requests_running",
    "num_requests_waiting",
    "kv_cache_usage_perc",
    "adapters_active",
    "adapters_awaited",
    "live_sequences",
)


@dataclass
class Storm:
    """Calls of a drawn kind to a target; `ends` counts (kind, status)."""

    target: str
    adapters: Sequence[str]
    seed: int = 0
    ends: "Counter[tuple[str, Code]]" = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._channels: list[grpc.aio.Channel] = []

    @property
    def wrong(self) -> "dict[tuple[str, Code], int]":
        """Ends that no call of that kind may have."""
        return {end: count for end, count in self.ends.items() if end[1] not in ENDS[end[0]]}

    async def blow(self, num_calls: int, at_once: int, pause: float = 0.0) -> None:
        """So many calls; `pause`: seconds between the starts of two, on average."""
        self._channels = [self._open() for _ in range(NUM_CHANNELS)]
        room = asyncio.Semaphore(at_once)
        async with asyncio.TaskGroup() as group:
            for _ in range(num_calls):
                await room.acquire()
                task = group.create_task(self._call(self._draw.choice(list(ENDS))))
                task.add_done_callback(lambda task: room.release())
                if pause:
                    await asyncio.sleep(self._draw.expovariate(1 / pause))
        for channel in self._channels:
            await channel.close()

    async def _call(self, kind: str) -> None:
        slot = self._draw.randrange(NUM_CHANNELS)
        channel = self._open() if kind == "disconnect" else self._channels[slot]
        timeout = self._draw.uniform(0.001, 1.0) if kind == "deadline" else 300.0
        call = InferenceStub(channel).Generate(self._request(kind), timeout=timeout)
        try:
            await self._read(call, kind, channel)
            code = await call.code()
        except grpc.aio.AioRpcError as error:
            code = error.code()
        except asyncio.CancelledError:
            # How a call that its own side has cancelled, or whose channel is closed, is told.
            code = Code.CANCELLED
        finally:
            if kind == "disconnect":
                await channel.close()
        self.ends[kind, code] += 1

    async def _read(self, call: Any, kind: str, channel: grpc.aio.Channel) -> None:
        left = self._draw.randrange(8)
        async for _ in call:
            if kind == "slow":
                await asyncio.sleep(self._draw.uniform(0.0, 0.3))
            left -= 1
            if left <= 0 and kind in ("cancel", "slow"):
                call.cancel()
            elif left <= 0 and kind == "disconnect":
                await channel.close()

    def _request(self, kind: str) -> pb.GenerateRequest:
        draw = self._draw
        request = pb.GenerateRequest(
            token_ids=pb.TokenIds(ids=[draw.randrange(8, 300) for _ in range(draw.randrange(1, 60))]),
            adapter_id=draw.choice(["", *self.adapters]),
            sampling=pb.Sampling(
                max_new_tokens=draw.choice([1, 4, 16, 120]), ignore_eos=True, n=draw.choice([1, 1, 1, 3])
            ),
        )
        if draw.random() < 0.5:
            request.sampling.temperature, request.sampling.seed = 0.8, draw.randrange(1000)
        if kind == "slow":
            request.sampling.logprobs = 20
        if kind == "bad":
            request.adapter_id = draw.choice(["nobody", "../x", "a@0"])
        return request

    def _open(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(self.target, CHANNEL_OPTIONS)


def scrape(port: int) -> dict[str, float]:
    """Sample -> value, summed over labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        families = text_string_to_metric_families(response.read().decode())
        found: Counter[str] = Counter()
        for family in families:
            found.update({sample.name.removeprefix("lorikeet:"): 0.0 for sample in family.samples})
            for sample in family.samples:
                found[sample.name.removeprefix("lorikeet:")] += sample.value
    return dict(found)


async def rest(port: int, seconds: float) -> dict[str, float]:
    """What is not 0 although nobody asks any more: nothing as soon as all is, else after so long."""
    end = asyncio.get_running_loop().time() + seconds
    while True:
        found = await asyncio.to_thread(scrape, port)
        held = {name: found[name] for name in AT_REST if found[name]}
        if not held or asyncio.get_running_loop().time() > end:
            return held
        await asyncio.sleep(0.2)


@dataclass(frozen=True)
class Holdings:
    """What one process holds at one moment."""

    megabytes: float
    files: int
    threads: int


def holdings(pid: int) -> Holdings:
    process = psutil.Process(pid)
    return Holdings(process.memory_info().rss / 2**20, process.num_fds(), process.num_threads())


def growth(samples: Sequence[Holdings]) -> Holdings:
    """From the middle third of a run to its last, in medians; the first third warms up."""
    third = len(samples) // 3
    middle, last = samples[third : 2 * third], samples[-third:]

    def grown(name: str) -> Any:
        then, now = ([getattr(each, name) for each in part] for part in (middle, last))
        return statistics.median(now) - statistics.median(then)

    return Holdings(grown("megabytes"), grown("files"), grown("threads"))
