"""A process of our own that is told a line of JSON at a time, and answers in such lines."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Timer
from typing import Any


class ChildLost(Exception):
    """The process could not be started, or ended before it had answered."""


class ChildSlow(ChildLost):
    """It was killed because it did not answer in time."""


class ChildGarbled(ChildLost):
    """It said what is no JSON."""


class LineChild:
    """One process and what it forks, to be ended by `end`. After ChildLost it is of no use."""

    def __init__(self, command: Sequence[str], max_chars: int = -1) -> None:
        """Does not wait for it. No line of more characters is read. Raises ChildLost."""
        self._max_chars = max_chars
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
        assert self._process.stdin is not None and self._process.stdout is not None, "both are pipes"
        self._tasks, self._answers = self._process.stdin, self._process.stdout

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_usable(self) -> bool:
        """Not if it is gone, or says what nobody asked for."""
        # Not select(), which takes no files beyond the first 1,024: a server's clients have those.
        answers = select.poll()
        answers.register(self._answers, select.POLLIN)
        return self._is_there and not answers.poll(0)

    def end(self) -> None:
        """Kills it and what it forked; once more changes nothing."""
        self._kill()
        # What could not be written is written once more as the pipe closes.
        with suppress(BrokenPipeError), self._process:
            pass

    @contextmanager
    def _killed_after(self, seconds: float) -> Iterator[None]:
        """Raises ChildSlow where that is why it was lost."""
        is_late = Event()

        def kill() -> None:
            is_late.set()
            self._kill()

        timer = Timer(seconds, kill)
        timer.start()
        try:
            yield
        except ChildLost as error:
            if is_late.is_set():
                raise ChildSlow(f"it did not answer within {seconds:g} s") from error
            raise
        finally:
            timer.cancel()

    def _write(self, told: Any) -> None:
        # That it is gone shows when it is read.
        with suppress(BrokenPipeError):
            self._tasks.write(json.dumps(told) + "\n")
            self._tasks.flush()

    def _read(self) -> dict[str, Any]:
        try:
            line = self._answers.readline(self._max_chars)
            if not line.endswith("\n") and len(line) != self._max_chars:
                raise ChildLost("it ended before its line did")
            answer: dict[str, Any] = json.loads(line)
        except ValueError as error:
            raise ChildGarbled("it said what is no JSON") from error
        return answer

    @property
    def _is_there(self) -> bool:
        if self._process.returncode is not None:
            return False
        # It keeps its number, which is that of its group, until it is waited for.
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def _kill(self) -> None:
        """What it forked may live on without it."""
        if self._process.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)


def environment() -> dict[str, str]:
    """Of a child that should find this process's packages, and none of its secrets."""
    path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), *filter(None, sys.path)])
    # One BLAS thread: dozens would reserve more address space than a limit on it allows.
    return {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PATH": os.defpath}
