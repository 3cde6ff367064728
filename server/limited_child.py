"""The front's hold on a process that works within limits, and what its death says of what it worked on."""

import signal
import sys
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

from adapters.line_child import ChildLost as ChildLost
from adapters.line_child import LineChild
from server.limited_process import MAX_ADDRESS_BYTES

# Wall time is only a backstop for a process that is stopped or gets no core; a busy machine must not hit it.
START_SECONDS = 30.0
# For each second of processor time.
ANSWER_SECONDS = 20.0
# How a process dies of what it does itself: of its limit, of a stack or an allocation that has no room.
_OWN_SIGNALS = (signal.SIGXCPU, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)


class OverLimit(Exception):
    """What was worked on took too much; the text says how much."""


class Child(LineChild):
    """One process. ChildLost is nobody's fault who asked: it was killed from outside, hung or never began."""

    def __init__(
        self,
        module: str,
        first: Mapping[str, Any] | None = None,
        command: Sequence[str] = (),
        patience: float = ANSWER_SECONDS,
    ) -> None:
        """Returns once it is ready to work. Raises ChildLost.

        module: what it runs. first: what it is told before that, if anything. command: instead of Python's.
        """
        super().__init__(command or (sys.executable, "-s", "-m", module))
        self._patience = patience
        self._numbers = count()
        try:
            with self._killed_after(START_SECONDS):
                if first is not None:
                    self._write(first)
                self._read()
        except ChildLost:
            self.end()
            raise

    def ask(self, task: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What the process answers. seconds: of its processor time. Raises OverLimit or ChildLost."""
        number = next(self._numbers)
        with self._killed_after(self._patience * seconds):
            self._write({**task, "number": number, "seconds": seconds})
            answer = self._read()
        if "ended" in answer:
            raise _verdict(answer["ended"], seconds)
        if answer.pop("number") != number:
            raise ChildLost("it answers what was asked before")
        return answer


def _verdict(code: int, seconds: float) -> OverLimit | ChildLost:
    if code == -signal.SIGXCPU:
        return OverLimit(f"more than {seconds:.3g} s")
    if code > 0 or -code in _OWN_SIGNALS:
        return OverLimit(f"more memory than {MAX_ADDRESS_BYTES // 1024**2} MB")
    return ChildLost(f"who worked ended with {code}, which nothing that is worked on brings about")
