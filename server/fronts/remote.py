"""Desk and engine as a front sees them that owns neither."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import msgspec

from adapters.store import AdapterVersion
from server.desk import Ask
from server.engine.messages import Abort, Failure, Ready, Submit, Token
from server.errors import Told
from server.fronts.messages import (
    Began,
    Leave,
    Look,
    Lost,
    Refused,
    Reserve,
    Reserved,
    Said,
    Seated,
    State,
)
from server.fronts.messages import Told as Message
from server.fronts.pipe import Pipe
from server.link import EngineLost
from server.revocable import Revocable
from server.stream import Stream

# More sequences than a front has in its life.
IDS_PER_FRONT = 1 << 40


class RemoteLink:
    """An AnsweringLink. `number`: no front before had it, so that no two sequences share an id."""

    def __init__(self, pipe: Pipe[Message], number: int) -> None:
        self.ready: Ready | None = None
        self.is_alive = True
        self._pipe = pipe
        self._ids = count(number * IDS_PER_FRONT)
        self._streams: dict[int, Stream] = {}

    def new_id(self) -> int:
        return next(self._ids)

    async def submit(self, request: Submit) -> AsyncIterator[list[Token] | Failure]:
        # The first front groups tokens; what waits here although it was told goes out together.
        stream = self._streams[request.id] = Stream(request, interval=0.0)
        self._pipe.tell(request)
        try:
            while not stream.is_over:
                yield await stream.take()
        finally:
            # Still known: the reader left before the end.
            if self._streams.pop(request.id, None) is not None:
                self._pipe.tell(Abort(request.id))

    def take(self, news: State | Said | Lost) -> None:
        if isinstance(news, State):
            self.ready, self.is_alive = news.ready, news.is_alive
        elif isinstance(news, Lost):
            if (stream := self._streams.pop(news.id, None)) is not None:
                stream.fail(EngineLost(news.why))
        else:
            self._hand_out(news)

    def _hand_out(self, said: Said) -> None:
        """None for a sequence whose end crossed this on its way."""
        stream = self._streams.get(said.id)
        if stream is None:
            return
        for token in said.tokens:
            stream.put(token)
        if said.failure is not None:
            stream.fail(said.failure)
        if said.failure is not None or said.tokens[-1].finish:
            del self._streams[said.id]


class _Visit(Revocable):
    """A request's talk with the desk."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: asyncio.Queue[Seated | Reserved] = asyncio.Queue()
        self.status = b""
        self.num_spent = 0


class RemoteDesk:
    """A Desk. A refusal ends the request wherever it is."""

    def __init__(self, pipe: Pipe[Message]) -> None:
        self._pipe = pipe
        self._ids = count(1)
        self._visits: dict[int, _Visit] = {}

    @asynccontextmanager
    async def place(self, ask: Ask) -> AsyncIterator["RemotePlace"]:
        asked = msgspec.structs.replace(ask, id=next(self._ids))
        async with self._visit(asked) as visit:
            seated = await visit.answers.get()
            assert isinstance(seated, Seated), "the desk answers in turn"
            yield RemotePlace(self._pipe, visit, seated)

    @asynccontextmanager
    async def adapter(self, tenant: str, adapter_id: str) -> AsyncIterator[AdapterVersion | None]:
        if not adapter_id:
            yield None
            return
        async with self._visit(Look(next(self._ids), tenant, adapter_id)) as visit:
            seated = await visit.answers.get()
            assert isinstance(seated, Seated), "the desk answers in turn"
            yield seated.adapter

    def take(self, answer: Seated | Reserved | Refused) -> None:
        visit = self._visits.get(answer.id)
        if visit is None:
            # It left before it was answered.
            return
        if isinstance(answer, Refused):
            visit.status = answer.status
            visit.revoke()
        else:
            visit.answers.put_nowait(answer)

    @asynccontextmanager
    async def _visit(self, asked: Ask | Look) -> AsyncIterator[_Visit]:
        visit = self._visits[asked.id] = _Visit()
        self._pipe.tell(asked)
        try:
            yield visit
        except asyncio.CancelledError:
            if visit.is_only_reason():
                raise Told(visit.status) from None
            raise
        finally:
            del self._visits[asked.id]
            self._pipe.tell(Leave(asked.id, visit.num_spent))


class RemotePlace:
    def __init__(self, pipe: Pipe[Message], visit: _Visit, seated: Seated) -> None:
        self.adapter = seated.adapter
        self.weight = seated.weight
        self._pipe = pipe
        self._visit = visit
        self._id = seated.id

    async def reserve_prompt(self, num_tokens: int) -> None:
        self._pipe.tell(Reserve(self._id, num_tokens))
        await self._visit.answers.get()

    def begin(self, seconds: float) -> None:
        self._pipe.tell(Began(self._id, seconds))

    def spend(self, num_tokens: int) -> None:
        self._visit.num_spent += num_tokens
