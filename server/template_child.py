"""The front's hold on the process that renders chat templates, and what its death says of a template."""

import signal
import sys
from collections.abc import Sequence
from itertools import count
from typing import Any

from adapters.line_child import ChildLost as ChildLost
from adapters.line_child import LineChild
from server.template_process import MAX_ADDRESS_BYTES

# Of processor time; a template of a real model takes a few milliseconds.
RENDER_SECONDS = 1.0
COMMAND = (sys.executable, "-s", "-m", "server.template_process")
# Wall time is only a backstop for a process that is stopped or gets no core; a busy machine must not hit it.
START_SECONDS = 30.0
ANSWER_SECONDS = 20.0
# How a process dies of what it does itself: of its limit, of a stack or an allocation that has no room.
_OWN_SIGNALS = (signal.SIGXCPU, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)


class OverLimit(Exception):
    """What was rendered took too much; the text says how much."""


class Child(LineChild):
    """One process. ChildLost is no template's fault: it was killed from outside, hung or never began."""

    def __init__(self, command: Sequence[str] = COMMAND, patience: float = ANSWER_SECONDS) -> None:
        """Returns once it is ready to render. Raises ChildLost."""
        super().__init__(command)
        self._patience = patience
        self._numbers = count()
        try:
            with self._killed_after(START_SECONDS):
                self._read()
        except ChildLost:
            self.end()
            raise

    def ask(self, task: dict[str, Any]) -> dict[str, str]:
        """What `template_process` answers to a task's template, tokens and messages.

        Raises OverLimit or ChildLost.
        """
        number = next(self._numbers)
        with self._killed_after(self._patience):
            self._write({**task, "number": number, "seconds": RENDER_SECONDS})
            answer = self._read()
        if "ended" in answer:
            raise _verdict(answer["ended"])
        if answer.pop("number") != number:
            raise ChildLost("it answers what was asked before")
        return answer


def _verdict(code: int) -> OverLimit | ChildLost:
    if code == -signal.SIGXCPU:
        return OverLimit(f"more than {RENDER_SECONDS:g} s")
    if code > 0 or -code in _OWN_SIGNALS:
        return OverLimit(f"more memory than {MAX_ADDRESS_BYTES // 1024**2} MB")
    return ChildLost(f"who rendered ended with {code}, which nothing that is rendered brings about")
