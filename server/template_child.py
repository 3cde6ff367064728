"""The front's hold on the process that renders chat templates, and what its death says of a template."""

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


class ChildLost(Exception):
    """The process could not be started, was killed from outside, or hung: no template's fault."""


class Child:
    """One process, to be ended by `end`. After ChildLost it is of no use."""

    def __init__(self, command: Sequence[str] = COMMAND, patience: float = ANSWER_SECONDS) -> None:
        """Returns once it is ready to render. Raises ChildLost."""
        self._patience = patience
        self._numbers = count()
        try:
            self._process = subprocess.Popen(
                command,
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
        try:
            with self._killed_after(START_SECONDS):
                self._read()
        except ChildLost:
            self.end()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_usable(self) -> bool:
        """Not if it is gone, or says what nobody asked for: that who rendered was killed in the meantime."""
        assert self._process.stdout is not None, "it was started with a pipe"
        # Not `select`, which knows no file beyond the 1024th.
        pipe = select.poll()
        pipe.register(self._process.stdout, select.POLLIN)
        return self._is_there and not pipe.poll(0)

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

    def end(self) -> None:
        self._kill()
        # What could not be written is written once more as the pipe closes.
        with suppress(BrokenPipeError), self._process:
            pass

    @property
    def _is_there(self) -> bool:
        return self._process.poll() is None

    def _write(self, task: dict[str, Any]) -> None:
        assert self._process.stdin is not None, "it was started with a pipe"
        # That it is gone shows when it is read.
        with suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None, "it was started with a pipe"
        try:
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
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


def _verdict(code: int) -> OverLimit | ChildLost:
    if code == -signal.SIGXCPU:
        return OverLimit(f"more than {RENDER_SECONDS:g} s")
    if code > 0 or -code in _OWN_SIGNALS:
        return OverLimit(f"more memory than {MAX_ADDRESS_BYTES // 1024**2} MB")
    return ChildLost(f"who rendered ended with {code}, which nothing that is rendered brings about")
