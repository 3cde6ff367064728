"""A file that is read again whenever it has changed."""

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
Stamp = tuple[tuple[int, int, int], ...]

log = logging.getLogger(__name__)


class LiveFile(Generic[T]):
    """What one or several files say now; one that is gone or wrong leaves the last good content in force."""

    def __init__(self, paths: tuple[Path, ...], parse: Callable[..., T]) -> None:
        """`parse(*contents)` raises ValueError for what is wrong; so does this, or OSError."""
        self._paths = paths
        self._parse = parse
        self._stamp = self._look()
        self._content = self._read()

    def get(self) -> T:
        """One look at each file's time and size; thread-safe."""
        self.refresh()
        return self._content

    def refresh(self) -> bool:
        """Whether there is something new."""
        try:
            stamp = self._look()
            if stamp == self._stamp:
                return False
            # First, so that a bad file is complained about once.
            self._stamp = stamp
            self._content = self._read()
        except (OSError, ValueError) as error:
            self._complain(error)
            return False
        log.info("%s was read again", self._names)
        return True

    @property
    def _names(self) -> str:
        return ", ".join(str(path) for path in self._paths)

    def _complain(self, error: Exception) -> None:
        if isinstance(error, OSError):
            # Not again until the file is back.
            missing: Stamp = ()
            if self._stamp == missing:
                return
            self._stamp = missing
        log.error("%s: %s; what it said before stays in force", self._names, error)

    def _look(self) -> Stamp:
        stats = [os.stat(path) for path in self._paths]
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def _read(self) -> T:
        return self._parse(*(path.read_bytes() for path in self._paths))
