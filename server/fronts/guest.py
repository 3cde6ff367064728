"""Another front, as the first one serves it: its requests at the desk, its sequences in the engine."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from adapters.store import AdapterVersion
from server.desk import Ask, OwnDesk, OwnPlace
from server.engine.messages import Abort, Failure, Submit, Token
from server.fronts.messages import (
    Asked,
    Began,
    Figures,
    Leave,
    Look,
    Lost,
    Refused,
    Reserve,
    Reserved,
    Said,
    Seated,
)
from server.fronts.pipe import Pipe
from server.incidents import status_of
from server.link import AnsweringLink, EngineLost
from server.quotas import Share

Step = Reserve | Began | Leave | None


class Guest:
    """Belongs to the event loop. When the other front dies, all that it had is given back."""

    def __init__(
        self, pipe: Pipe[Asked], desk: OwnDesk, link: AnsweringLink, count: Callable[[Figures], None]
    ) -> None:
        self._pipe = pipe
        self._desk = desk
        self._link = link
        self._count = count
        # What each request that is here says next; None: its front died.
        self._visits: dict[int, asyncio.Queue[Step]] = {}
        self._answers: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Returns once the other front is gone and everything it had is free."""
        try:
            async for message in self._pipe.messages():
                self._take(message)
        finally:
            for answer in self._answers.values():
                answer.cancel()
            for visit in self._visits.values():
                visit.put_nowait(None)
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _take(self, message: Asked) -> None:
        match message:
            case Ask() | Look():
                self._visits[message.id] = asyncio.Queue()
                self._run(self._visit(message))
            case Reserve() | Began() | Leave():
                if message.id in self._visits:
                    self._visits[message.id].put_nowait(message)
            case Submit(id=sequence):
                answer = self._answers[sequence] = self._run(self._answer(message))
                # Not by the task itself, which never begins if it is aborted in the same turn.
                answer.add_done_callback(lambda _: self._answers.pop(sequence))
            case Abort():
                if message.id in self._answers:
                    self._answers[message.id].cancel()
            case Figures():
                self._count(message)

    def _run(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _visit(self, asked: Ask | Look) -> None:
        """One request, from its question to its end."""
        steps = self._visits[asked.id]
        try:
            if isinstance(asked, Look):
                async with self._desk.adapter(asked.tenant, asked.adapter_id) as adapter:
                    self._pipe.tell(Seated(asked.id, _brief(adapter)))
                    await steps.get()
            else:
                with self._desk.share(asked) as share:
                    await self._host(asked, share, steps)
        except Exception as error:  # noqa: BLE001
            self._refuse(asked.id, error)
        finally:
            del self._visits[asked.id]

    async def _host(self, ask: Ask, share: Share, steps: "asyncio.Queue[Step]") -> None:
        """Its share is settled once its front has said what it used, also if its place ends before that."""
        try:
            async with self._desk.seat(ask, share) as place:
                self._pipe.tell(Seated(ask.id, _brief(place.adapter), place.weight))
                await self._accompany(ask.id, place, steps)
        except Exception as error:  # noqa: BLE001
            self._refuse(ask.id, error)
            await _see_out(share, steps)

    def _refuse(self, visit: int, error: Exception) -> None:
        self._pipe.tell(Refused(visit, status_of(error, "a front's request").SerializeToString()))

    async def _accompany(self, visit: int, place: OwnPlace, steps: "asyncio.Queue[Step]") -> None:
        while True:
            match await steps.get():
                case Reserve(num_tokens=num_tokens):
                    await place.reserve_prompt(num_tokens)
                    self._pipe.tell(Reserved(visit))
                case Began(seconds=seconds):
                    place.begin(seconds)
                case Leave(num_spent=num_spent):
                    return place.spend(num_spent)
                case None:
                    return place.forfeit()

    async def _answer(self, request: Submit) -> None:
        try:
            news = cast(AsyncGenerator[list[Token] | Failure, None], self._link.submit(request))
            async with aclosing(news):
                async for item in news:
                    self._pipe.tell(_said(request.id, item))
        except EngineLost as error:
            self._pipe.tell(Lost(request.id, str(error)))


async def _see_out(share: Share, steps: "asyncio.Queue[Step]") -> None:
    """What its front said, and gave out, before it heard that the request is not in any more."""
    while True:
        match await steps.get():
            case Began():
                share.begin()
            case Leave(num_spent=num_spent):
                return share.spend(num_spent)
            case None:
                return share.forfeit()


def _said(sequence: int, item: list[Token] | Failure) -> Said:
    return Said(sequence, failure=item) if isinstance(item, Failure) else Said(sequence, item)


def _brief(version: AdapterVersion | None) -> AdapterVersion | None:
    """Without what the engine alone needs of it, which is long."""
    if version is None:
        return None
    return replace(version, manifest=replace(version.manifest, targets={}, story=None))
