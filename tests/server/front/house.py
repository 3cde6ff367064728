"""A front over a scripted engine: real sockets, real tokenizer, real store, no torch."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import grpc
import msgspec
import pytest
from google.rpc import error_details_pb2 as details_pb
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_status import rpc_status

from adapters.errors import InvalidAdapter
from adapters.manifest import BaseShapes, Manifest
from lorikeet.v1 import inference_pb2 as pb
from lorikeet.v1.adapters_pb2_grpc import AdaptersStub
from lorikeet.v1.inference_pb2_grpc import InferenceStub
from server.app import Front
from server.engine import messages
from server.engine.messages import (
    Command,
    Failure,
    Moved,
    Pin,
    Ready,
    Started,
    Stats,
    Submit,
    Token,
    Unpin,
    Warm,
)
from server.news import News
from server.places import Places
from server.text import Text
from tests.server.front.tiny import CONTEXT, VOCAB

T = TypeVar("T")
PATIENCE = 20.0
SHAPES = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}
MLP = {"gate_proj": (24, 16), "up_proj": (24, 16), "down_proj": (16, 24)}
READY = Ready(
    family="llama",
    vocab_size=VOCAB,
    shapes=BaseShapes(
        {
            f"model.layers.{layer}.{part}.{name}": shape
            for layer in range(2)
            for part, shapes in (("self_attn", SHAPES), ("mlp", MLP))
            for name, shape in shapes.items()
        },
        vocab_size=VOCAB,
        hidden_size=16,
        num_layers=2,
        num_kv_heads=1,
        head_dim=8,
        fingerprint="f" * 64,
    ),
    block_size=4,
    num_blocks=100,
    adapter_slots=8,
    max_rank=16,
    max_context=CONTEXT,
    dtype="float32",
    device="cpu",
    load_seconds=0.5,
)
STATS = Stats(
    running=2,
    waiting=3,
    blocks_used=25,
    blocks_total=100,
    slots_total=8,
    active=1,
    steps=7,
    tokens_computed=70,
    preemptions=1,
    prefix_queried_tokens=50,
    prefix_hit_tokens=20,
    adapter_loads=4,
    adapter_load_seconds=0.25,
    adapter_evictions=2,
)


# What an engine that is busy says of adapters at once.
MOVED = [
    Moved("d1", on_host=True, on_device=True, is_awaited=False),
    Moved("d2", on_host=False, on_device=True, is_awaited=False),
    Moved("d3", on_host=True, on_device=False, is_awaited=True),
]


class Loop:
    """An event loop on a thread, for as long as the tests run."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE)

    def until(self, holds: Callable[[], bool]) -> None:
        """Lets the loop turn until something is true of what runs on it."""

        async def turn() -> None:
            while not holds():
                await asyncio.sleep(0)

        self.run(turn())

    def close(self) -> None:
        self.run(self.loop.shutdown_default_executor())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


Item = list[Token] | Failure | Exception
Script = Callable[[Submit], Sequence[Item]]


class FakeLink:
    """An engine that says what the test tells it, and then nothing until it is aborted."""

    def __init__(self) -> None:
        self.news = News()
        self.ready: Ready | None = None
        self.stats: Stats | None = None
        self.places = Places(self.news)
        self.told: list[Command] = []
        self.script: Script = lambda request: []
        self.submitted: list[Submit] = []
        self.aborted: list[int] = []
        # What the engine finds wrong with every upload.
        self.problems: list[str] = []
        self.loads = True
        self.is_alive = True
        self.fails: Exception | None = None
        self._ids = count(1)
        self._changed = threading.Condition()

    def warm(self, digest: str, tier: str) -> None:
        self._note(self.told, Warm(digest, tier))

    def pin(self, digest: str, tier: str) -> None:
        self._note(self.told, Pin(digest, tier))

    def unpin(self, digest: str) -> None:
        self._note(self.told, Unpin(digest))

    def new_id(self) -> int:
        return next(self._ids)

    async def start(self) -> None:
        if self.fails is not None:
            raise self.fails
        if not self.loads:
            await asyncio.Event().wait()
        self.ready, self.stats = READY, STATS
        self.places.take(MOVED)
        self.news.tell()

    async def stop(self) -> None:
        self.ready = None

    async def submit(self, request: Submit) -> AsyncIterator[list[Token] | Failure]:
        self._note(self.submitted, request)
        over = False
        try:
            for item in self.script(request):
                if isinstance(item, Exception):
                    over = True
                    raise item
                over = isinstance(item, Failure) or item[-1].finish != ""
                yield item
            if not over:
                await asyncio.Event().wait()
        finally:
            if not over:
                self._note(self.aborted, request.id)

    async def prepare(self, folder: Path, manifest: Manifest) -> Manifest:
        if self.problems:
            raise InvalidAdapter(self.problems)
        return manifest

    def wait(self, holds: Callable[[], bool]) -> None:
        """Until something noted makes it true."""
        with self._changed:
            assert self._changed.wait_for(holds, PATIENCE)

    def _note(self, book: list[Any], entry: Any) -> None:
        with self._changed:
            book.append(entry)
            self._changed.notify_all()


@dataclass
class House:
    """A running front and its clients."""

    front: Front
    link: FakeLink
    loop: Loop
    channel: grpc.Channel

    def __post_init__(self) -> None:
        self.inference = InferenceStub(self.channel)
        self.adapters = AdaptersStub(self.channel)
        self.health = HealthStub(self.channel)

    def report(
        self,
        resident: Collection[str] = (),
        on_host: Collection[str] = (),
        refusals: Sequence[messages.Refused] = (),
    ) -> None:
        """The engine says where adapters are now, and no others."""
        places = self.link.places
        known = {*places.resident, *places.on_host, *resident, *on_host}
        moved = [Moved(each, each in on_host, each in resident, False) for each in known]
        self.loop.run(self._take(moved, list(refusals)))

    async def _take(self, moved: list[Moved], refusals: list[messages.Refused]) -> None:
        self.link.places.take(moved, refusals)

    def replace_engine(self) -> None:
        """Another engine takes over, which knows of nothing."""
        self.link.ready = msgspec.structs.replace(READY)
        self.loop.loop.call_soon_threadsafe(self.link.news.tell)

    def generate(self, prompt: str = "hello", timeout: float = PATIENCE, **sampling: Any) -> list[Any]:
        """All messages of an answer from the base."""
        request = pb.GenerateRequest(prompt=prompt, sampling=pb.Sampling(**sampling))
        return list(self.inference.Generate(request, timeout=timeout))


Open = Callable[..., House]


def script(text: Text, answer: str, size: int = 1, finish: str = "length", **first: Any) -> Script:
    """The answer's tokens in lists of `size`."""
    return lambda request: batches(
        request, text.backend.encode(answer, add_special_tokens=False).ids, size, finish
    )


def batches(request: Submit, ids: Sequence[int], size: int = 1, finish: str = "length") -> list[Item]:
    tokens = [
        Token(
            request.id,
            token_id,
            finish if index == len(ids) - 1 else "",
            Started(3, 0.25, 0.125) if index == 0 else None,
        )
        for index, token_id in enumerate(ids)
    ]
    return [tokens[at : at + size] for at in range(0, len(tokens), size)]


class Refused:
    """What a failed call told its client."""

    def __init__(self, error: grpc.RpcError) -> None:
        self.code: grpc.StatusCode = error.code()
        self.message: str = error.details()
        self._status = rpc_status.from_call(error)

    def detail(self, kind: type[T]) -> T:
        assert self._status is not None, f"{self.code} {self.message} has no details"
        for packed in self._status.details:
            found: Any = kind()
            if packed.Unpack(found):
                return found
        raise AssertionError(f"no {kind.__name__} in {self._status}")

    @property
    def reason(self) -> str:
        info = self.detail(details_pb.ErrorInfo)
        assert info.domain == "lorikeet"
        return str(info.reason)

    @property
    def fields(self) -> list[str]:
        return [violation.field for violation in self.detail(details_pb.BadRequest).field_violations]

    @property
    def retries(self) -> bool:
        return self.detail(details_pb.RetryInfo).retry_delay.seconds > 0


def refused(call: Callable[[], Any]) -> Refused:
    """The refusal of a call that must fail."""
    with pytest.raises(grpc.RpcError) as caught:
        answer = call()
        list(answer) if hasattr(answer, "__next__") else None
    return Refused(caught.value)
