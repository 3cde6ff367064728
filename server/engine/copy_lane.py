"""Copies to the device that run beside the steps, each after the last step that reads what it overwrites."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch


class Mark(Protocol):
    """A point in the device's work."""

    def query(self) -> bool:
        """Whether the device has come to it."""


class CopyLane(Protocol):
    def mark(self) -> Mark | None:
        """The end of all steps launched so far; None: they have ended."""

    def copy(self, write: Callable[[], None], after: list[Mark]) -> Mark | None:
        """Writes once the device has come to all of `after`; the mark is the copy's end, None: it is done."""


class Inline:
    """At once: for devices whose steps end before they return."""

    def mark(self) -> None:
        return None

    def copy(self, write: Callable[[], None], after: list[Mark]) -> None:
        write()


class CudaLane:
    """A stream of its own. notify: called on a thread of its own when a copy has ended."""

    def __init__(self, device: torch.device, notify: Callable[[], None] = lambda: None) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._notify = notify
        self._watcher = ThreadPoolExecutor(1, thread_name_prefix="copy-watcher")

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event()
        event.record(torch.cuda.current_stream(self._device))
        return event

    def copy(self, write: Callable[[], None], after: list[Mark]) -> torch.cuda.Event:
        for mark in after:
            assert isinstance(mark, torch.cuda.Event), "a mark is of another lane"
            self._stream.wait_event(mark)
        landed = torch.cuda.Event(blocking=True)
        with torch.cuda.stream(self._stream):
            write()
            landed.record(self._stream)
        self._watcher.submit(self._watch, landed)
        return landed

    def _watch(self, landed: torch.cuda.Event) -> None:
        landed.synchronize()
        self._notify()
