"""What the first front keeps of another one's requests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from google.rpc import status_pb2  # type: ignore[import-untyped]

from adapters.manifest import Manifest
from adapters.store import AdapterVersion
from server.admission import Admission
from server.desk import Ask, OwnDesk
from server.engine.messages import Abort, Sampling, Submit, Token
from server.errors import QuotaExceeded
from server.fronts.guest import Guest
from server.fronts.messages import Began, Leave, Refused, Reserve, Reserved, Seated
from server.holds import Holds
from server.identity.tenants import Tenant, Tenants
from server.news import News
from server.quotas import Quotas

VERSION = AdapterVersion("t", "doomed", 1, "d", 0.0, Manifest("d", (), "lora", 4, 1, {}, "", "F32"))


class Ends:
    """Both ends of what a guest talks to: its front's messages, and an engine that answers nothing."""

    def __init__(self, turns: list[list[Any]]) -> None:
        self.left: dict[int, asyncio.Event] = {}
        self._turns = turns

    async def messages(self) -> AsyncIterator[Any]:
        for turn in self._turns:
            for message in turn:
                yield message
            # The tasks of this turn begin, and those that were aborted end.
            for _ in range(4):
                await asyncio.sleep(0)

    def tell(self, message: Any) -> None:
        raise AssertionError(f"nobody waits for {message}")

    async def submit(self, request: Submit) -> AsyncIterator[list[Token]]:
        left = self.left[request.id] = asyncio.Event()
        try:
            await asyncio.Event().wait()
            yield []
        finally:
            left.set()


def sequence(number: int) -> Submit:
    return Submit(id=number, tenant="t", adapter="", tokens=[1], sampling=Sampling(), arrived_at=0.0)


def test_nothing_is_kept_of_a_sequence_that_was_aborted_whether_it_had_begun_or_not() -> None:
    async def scenario() -> None:
        ends = Ends([[sequence(1)], [sequence(2), Abort(2), Abort(1)], [Abort(1), Abort(3)]])
        guest = Guest(cast(Any, ends), cast(Any, None), cast(Any, ends), lambda figures: None)
        await guest.serve()
        assert list(ends.left) == [1] and ends.left[1].is_set()
        assert guest._answers == {} and guest._tasks == set()

    asyncio.run(scenario())


class House:
    """A desk before a directory of one version, and another front that says what the test wants."""

    def __init__(self) -> None:
        self.holds = Holds(News())
        # Of a minute in which no time passes.
        self.quotas = Quotas(lambda: Tenants(Tenant(tokens_per_minute=100), {}), clock=lambda: 0.0)
        self.admission = Admission(10, "sequences")
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.told: list[Any] = []
        desk = OwnDesk(cast(Any, self), self.admission, self.quotas)
        self.guest = Guest(cast(Any, self), desk, cast(Any, None), lambda figures: None)

    @asynccontextmanager
    async def hold(self, tenant: str, reference: str, key: str) -> AsyncIterator[AdapterVersion]:
        with self.holds.hold(VERSION):
            yield VERSION

    async def messages(self) -> AsyncIterator[Any]:
        while (message := await self.heard.get()) is not None:
            yield message

    def tell(self, message: Any) -> None:
        self.told.append(message)

    async def say(self, *messages: Any) -> None:
        for message in messages:
            self.heard.put_nowait(message)
        for _ in range(8):
            await asyncio.sleep(0)

    def has_room_for(self, num_tokens: int) -> bool:
        try:
            with self.quotas.admit("t", 1) as share:
                share.reserve_answers(1, num_tokens)
        except QuotaExceeded:
            return False
        return True


@pytest.mark.parametrize(
    ("before", "crossing", "after", "charged"),
    [
        ([Began(1, 0.1)], [], [Leave(1, 30)], 35),
        ([Began(1, 0.1)], [Leave(1, 30)], [], 35),
        ([], [Began(1, 0.1), Leave(1, 30)], [], 35),
        ([], [], [Began(1, 0.1), Leave(1, 30)], 35),
        ([], [], [Leave(1, 0)], 0),
        ([Began(1, 0.1)], [], [Reserve(1, 9), Leave(1, 30)], 35),
        # Its front died and nobody knows: all that was reserved.
        ([Began(1, 0.1)], [], [None], 65),
    ],
)
def test_what_was_given_out_before_a_delete_by_force_is_charged(
    before: list[Any], crossing: list[Any], after: list[Any], charged: int
) -> None:
    async def scenario() -> None:
        house = House()
        serving = asyncio.create_task(house.guest.serve())
        await house.say(Ask(id=1, tenant="t", adapter_id="doomed", num_sequences=1, max_new_tokens=60))
        await house.say(Reserve(1, 5))
        assert [type(message) for message in house.told] == [Seated, Reserved]
        await house.say(*before)
        # They wake the request in the turn in which it is ended.
        for message in crossing:
            house.guest._take(message)
        house.holds.revoke_where(lambda tenant, name, number: True)
        await house.say()
        assert house.holds.running([VERSION]) == 0, "bytes wait for nobody's words"
        assert house.has_room_for(35) and (not after or not house.has_room_for(36)), "still reserved"
        await house.say(*after)
        assert house.has_room_for(100 - charged) and not house.has_room_for(101 - charged)
        assert house.admission.num_live == 0 and house.quotas.num_queued("t") == 0
        assert house.guest._visits == {}
        *_, refused = house.told
        assert isinstance(refused, Refused)
        assert "deleted by force" in status_pb2.Status.FromString(refused.status).message
        if None not in after:
            house.heard.put_nowait(None)
        await serving

    asyncio.run(scenario())


def test_a_request_that_its_prompt_ends_gives_all_back() -> None:
    async def scenario() -> None:
        house = House()
        serving = asyncio.create_task(house.guest.serve())
        await house.say(Ask(id=1, tenant="t", num_sequences=1, max_new_tokens=60), Reserve(1, 41))
        assert isinstance(house.told[-1], Refused)
        await house.say(Leave(1, 0))
        assert house.has_room_for(100) and house.guest._visits == {}
        await house.say(None)
        await serving

    asyncio.run(scenario())
