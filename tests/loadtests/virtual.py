"""An event loop on which waiting takes no time: its clock jumps to the next timer."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

# What a look at the clock takes, so that a loop which only looks comes to an end.
LOOK = 1e-5
# For threads, whose time is real.
PATIENCE = 20.0


class _Selector(selectors.DefaultSelector):
    now = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            found = super().select(PATIENCE)
            assert found, "everybody waits, and nothing will wake them"
            return found
        self.now += max(timeout, 0.0)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._selected = _Selector()
        super().__init__(self._selected)

    def time(self) -> float:
        self._selected.now += LOOK
        return self._selected.now

    def pass_time(self, seconds: float) -> None:
        """As if somebody held the loop up."""
        self._selected.now += seconds


def run_virtual(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
