"""The check in processes of their own: a crash, a memory bomb or an endless loop costs that check only.

They get the folder, the base's shapes and their limits, and no environment, so no secrets. What runs in them
is `sandbox_process`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from adapters.errors import InvalidAdapter, StoreUnavailable
from adapters.files import OPTIONAL_FILES, WEIGHTS_NAME
from adapters.line_child import ChildGarbled, ChildLost, ChildSlow, LineChild
from adapters.manifest import BaseShapes, FileSpec, Manifest

CPU_SECONDS = 5
CPU_SECONDS_PER_GIB = 20
CPU_SECONDS_PER_GIB_OF_TEXT = 256
# Wall time is only a backstop for a check that waits instead of working; a busy machine must not hit it.
WALL_FACTOR = 12
# More than the manifest of the most tensors that are taken.
MAX_ANSWER_CHARS = 64 * 1024**2
COMMAND = (sys.executable, "-s", "-m", "adapters.sandbox_process")
_log = logging.getLogger(__name__)


class Sandbox:
    """Thread-safe; to be closed. One process is begun at once, so that no upload waits for its start, and
    more where checks are made side by side."""

    def __init__(self, command: Sequence[str] = COMMAND, wall_factor: float = WALL_FACTOR) -> None:
        self._command = command
        self._wall_factor = wall_factor
        self._lock = Lock()
        self._idle: list[_Checker] = []
        # Where none can be begun, the first check says so.
        with suppress(ChildLost):
            self._idle.append(_Checker(command))

    def inspect(
        self,
        folder: Path,
        base: BaseShapes,
        max_rank: int,
        allow_base_mismatch: bool = False,
        files: Sequence[FileSpec] = (),
    ) -> Manifest:
        """`adapters.inspect` within limits; blocks, so call it off the event loop.

        files: those of the folder whose hashes are known.

        Raises InvalidAdapter for every problem, and also when the check crashes or exceeds its limits. Raises
        StoreUnavailable when the folder cannot be read or no process can be had.
        """
        task = {
            "folder": str(folder),
            "base": base.to_json(),
            "max_rank": max_rank,
            "allow_base_mismatch": allow_base_mismatch,
            "files": [asdict(file) for file in files],
            "cpu_seconds": _cpu_seconds(folder),
        }
        return _manifest(self._ask_twice(task))

    def close(self) -> None:
        with self._lock:
            while self._idle:
                self._idle.pop().end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask_twice(self, task: dict[str, Any]) -> dict[str, Any]:
        """A process that is lost says nothing of what it checked, which is tried in another one."""
        try:
            return self._ask(task)
        except ChildLost as error:
            _log.warning("a process for checks was lost, another one is begun: %s", error)
        try:
            return self._ask(task)
        except ChildLost as error:
            raise StoreUnavailable(f"The check could not be made ({error}); try again later.") from error

    def _ask(self, task: dict[str, Any]) -> dict[str, Any]:
        """Raises InvalidAdapter where the adapter is to blame, ChildLost where it is not."""
        try:
            with self._checker() as checker:
                answer, end = checker.check(task, task["cpu_seconds"] * self._wall_factor)
        except ChildSlow as error:
            raise InvalidAdapter(["checking its files took too long"]) from error
        except ChildGarbled as error:
            raise _unreadable() from error
        if end["ended"]:
            raise _ended(end["ended"], end["said"])
        return answer

    @contextmanager
    def _checker(self) -> Iterator[_Checker]:
        """One that nobody else uses, kept for the next check unless this one loses it."""
        checker = self._take()
        try:
            yield checker
        except BaseException:
            checker.end()
            raise
        with self._lock:
            self._idle.append(checker)

    def _take(self) -> _Checker:
        with self._lock:
            while self._idle:
                checker = self._idle.pop()
                if checker.is_usable:
                    return checker
                checker.end()
        return _Checker(self._command)


class _Checker(LineChild):
    """One process, which makes one check at a time."""

    def __init__(self, command: Sequence[str]) -> None:
        super().__init__(command, MAX_ANSWER_CHARS)

    def check(self, task: dict[str, Any], patience: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the check found, if anything, and how it ended. Raises ChildLost."""
        with self._killed_after(patience):
            self._write(task)
            first = self._read()
            end = first if "ended" in first else self._read()
        if "ended" not in end:
            raise ChildGarbled("it answers twice")
        return first, end


def _cpu_seconds(folder: Path) -> int:
    text = sum(_size(folder / name) for name in OPTIONAL_FILES)
    weights = _size(folder / WEIGHTS_NAME)
    return (
        CPU_SECONDS + CPU_SECONDS_PER_GIB * weights // 1024**3 + CPU_SECONDS_PER_GIB_OF_TEXT * text // 1024**3
    )


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _manifest(answer: dict[str, Any]) -> Manifest:
    if "unavailable" in answer:
        raise StoreUnavailable(
            f"The adapter's files could not be read ({answer['unavailable']}); try again later."
        )
    if "problems" in answer:
        raise InvalidAdapter(answer["problems"])
    try:
        return Manifest.from_json(answer["manifest"])
    except (ValueError, KeyError, TypeError) as error:
        raise _unreadable() from error


def _ended(code: int, said: str) -> InvalidAdapter:
    how = f"signal {-code}" if code < 0 else f"status {code}"
    _log.error("the check of an upload ended with %s: %s", how, said)
    return InvalidAdapter([f"checking its files failed or went over its limits ({how})"])


def _unreadable() -> InvalidAdapter:
    return InvalidAdapter(["checking its files gave no readable answer"])
