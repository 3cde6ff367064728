"""The front's hold on a process that works within limits, and what its death says of what it worked on."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from threading import Timer
from typing import Any

from adapters.sandbox import environment
from server.limited_process import MAX_ADDRESS_BYTES

# Wall time is only a backstop for a process that is stopped or gets no core; a busy machine must not hit it.
START_SECONDS = 30.0
# For each second of processor time.
ANSWER_SECONDS = 20.0
# How a process dies of what it does itself: of its limit, of a stack or an allocation that has no room.
_OWN_SIGNALS = (signal.SIGXCPU, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)


class OverLimit(Exception):
    """What was worked on took too much; the text says how much."""


class ChildLost(Exception):
    """The process could not be started, was killed from outside, or hung: nobody's fault who asked."""


class Child:
    """One process, to be ended by `end`. After ChildLost it is of no use."""

    def __init__(
        self, module: str, first: Any = None, command: Sequence[str] = (), patience: float = ANSWER_SECONDS
    ) -> None:
        """Returns once it is ready to work. Raises ChildLost.

        module: what it runs. first: what it is told before that, if anything. command: instead of Python's.
        """
        self._patience = patience
        self._numbers = count()
        try:
            self._process = subprocess.Popen(
                command or (sys.executable, "-s", "-m", module),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment(),
                encoding="utf-8",
                # To be killed together; and apart from the terminal's group, whose Ctrl-C is for the front.
                start_new_session=True,
            )
        except OSError as error:
            raise ChildLost(f"it cannot be started: {error.strerror}") from error
        assert self._process.stdin is not None and self._process.stdout is not None, "both are pipes"
        self._tasks, self._answers = self._process.stdin, self._process.stdout
        try:
            with self._killed_after(START_SECONDS):
                if first is not None:
                    self._write(first)
                self._read()
        except ChildLost:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_usable(self) -> bool:
        """Not if it is gone, or says what nobody asked for: that who worked was killed in the meantime."""
        # Not select(), which takes no files beyond the first 1,024: a server's clients have those.
        answers = select.poll()
        answers.register(self._answers, select.POLLIN)
        return self._is_there and not answers.poll(0)

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

    def end(self) -> None:
        self._kill()
        # What could not be written is written once more as the pipe closes.
        with suppress(BrokenPipeError), self._process:
            pass

    @property
    def _is_there(self) -> bool:
        return self._process.poll() is None

    def _write(self, told: Any) -> None:
        # That it is gone shows when it is read.
        with suppress(BrokenPipeError):
            self._tasks.write(json.dumps(told) + "\n")
            self._tasks.flush()

    def _read(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = json.loads(self._answers.readline())
        except ValueError as error:
            raise ChildLost("it ended in the middle of a line") from error
        return answer

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        timer = Timer(seconds, self._kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill(self) -> None:
        # One that is gone has left its number to others.
        if self._is_there:
            os.killpg(self.pid, signal.SIGKILL)


def _verdict(code: int, seconds: float) -> OverLimit | ChildLost:
    if code == -signal.SIGXCPU:
        return OverLimit(f"more than {seconds:.3g} s")
    if code > 0 or -code in _OWN_SIGNALS:
        return OverLimit(f"more memory than {MAX_ADDRESS_BYTES // 1024**2} MB")
    return ChildLost(f"who worked ended with {code}, which nothing that is worked on brings about")
