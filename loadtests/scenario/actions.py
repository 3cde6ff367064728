"""What happens to the server beside the load."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from loadtests.drive.records import Shift
from loadtests.scenario.aliases import NEW, OLD, Aliases
from loadtests.scenario.place import Place
from loadtests.scenario.spec import KILL, Action


class Actions:
    """Done one after another in a thread of their own, each at its time."""

    def __init__(self, actions: Sequence[Action], place: Place, aliases: Aliases) -> None:
        self._actions = sorted(actions, key=lambda action: action.at)
        self._place = place
        self._aliases = aliases
        self._shifts: list[Shift] = []
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(1, "actions")
        self._work: Future[None] | None = None

    def begin(self, start: float) -> None:
        """The run's start on the monotonic clock."""
        if self._aliases:
            self._note(0.0, 0.0, 0.0)
        self._work = self._threads.submit(self._run, start)

    def stop(self) -> None:
        """What has not been done is left undone."""
        self._over.set()
        self._threads.shutdown()

    def end(self) -> list[Shift]:
        """Raises what an action raised."""
        self.stop()
        if self._work is not None:
            self._work.result()
        return self._shifts

    def _run(self, start: float) -> None:
        for action in self._actions:
            if self._over.wait(start + action.at - time.monotonic()):
                return
            self._do(action, start)

    def _do(self, action: Action, start: float) -> None:
        if action.kind == KILL:
            self._place.kill_engine()
            return
        begun = time.monotonic() - start
        self._aliases.share(action.new)
        self._note(begun, time.monotonic() - start, action.new)

    def _note(self, begun: float, done: float, new: float) -> None:
        self._shifts.append(Shift(begun, done, {OLD: 1 - new, NEW: new}, self._aliases.roles))
