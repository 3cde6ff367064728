"""What the first front keeps of another one's requests."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

from server.engine.messages import Abort, Sampling, Submit, Token
from server.fronts.guest import Guest


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
