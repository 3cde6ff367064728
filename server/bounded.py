"""Work over what strangers made, where an endless loop harms nobody."""

import logging
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from server import workers
from server.errors import NotReady
from server.fair_lock import FairLock
from server.limited_child import Child, ChildLost, OverLimit
from server.strikes import MAX_STRIKES, Strikes

# For which one waits behind others'.
PATIENCE_SECONDS = 10.0

log = logging.getLogger(__name__)


class TooMuch(Exception):
    """The work takes more than it may, now or too often; the text says what and what to do."""


class Bounded:
    """One process, started when it is first needed and again when it was lost.

    What takes too much counts against its tenant and what was worked with, never against the same for others.
    """

    def __init__(
        self, start: Callable[[], Child], name: str, unit: str, patience: float = PATIENCE_SECONDS
    ) -> None:
        """name: whom the process is for, in messages. unit: what is worked on."""
        self._start = start
        self._name = name
        self._unit = unit
        self._patience = patience
        self._lock = FairLock()
        # All below belongs to this thread; and no thread that others wait for.
        self._pool = ThreadPoolExecutor(1, "bounded")
        self._strikes = Strikes()
        self._child: Child | None = None
        self._is_closed = False

    async def ask(self, who: tuple[str, Hashable], task: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The process' answer. who: the tenant, and what it is worked with.

        Raises TooMuch; NotReady where others hold it up, or no process can be had.
        """
        try:
            async with self._lock.turn(who[0], self._patience):
                return await workers.run(self._pool, partial(self._ask_bounded, who, task, seconds))
        except TimeoutError as error:
            raise NotReady(f"Other requests to {self._name} are worked on; try again in a moment.") from error

    def close(self) -> None:
        """Waits for what is worked on; once more changes nothing. Who asks from here on gets NotReady."""
        self.leave()
        self._pool.shutdown()

    def leave(self) -> None:
        """Closes as soon as what is worked on has ended."""
        if not self._is_closed:
            self._is_closed = True
            self._pool.submit(self._end)

    def _ask_bounded(self, who: tuple[str, Hashable], task: dict[str, Any], seconds: float) -> dict[str, Any]:
        if left := self._strikes.seconds_left(who):
            often = f"it took too much time or memory for {MAX_STRIKES} {self._unit}s"
            raise TooMuch(f"{often}, and is tried again in {left:.0f} s")
        try:
            return self._ask_twice(task, seconds)
        except OverLimit as limit:
            # Here, since whoever asked may have left by now.
            self._strikes.add(who)
            raise TooMuch(f"it takes {limit} for this {self._unit}; send a shorter one") from limit
        except ChildLost as error:
            raise NotReady(f"There is no process for {self._name} at the moment; try again.") from error

    def _ask_twice(self, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        """A process that is lost says nothing of what it worked on, which is tried on another one."""
        try:
            return self._ask(task, seconds)
        except ChildLost as error:
            log.warning("the process for %s was lost, another one is started: %s", self._name, error)
            return self._ask(task, seconds)

    def _ask(self, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            return self._usable_child().ask(task, seconds)
        except ChildLost:
            self._end()
            raise

    def _usable_child(self) -> Child:
        if self._is_closed:
            raise ChildLost("nobody needs it any more")
        if self._child is None or not self._child.is_usable:
            self._end()
            self._child = self._start()
        return self._child

    def _end(self) -> None:
        if self._child is not None:
            self._child.end()
            self._child = None
