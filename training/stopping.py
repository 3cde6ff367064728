"""SIGTERM as a request to stop at the next step instead of an end in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from torch import distributed


class Stop:
    """Whether somebody has asked for the run to stop."""

    def __init__(self) -> None:
        self._asked = False

    def ask(self) -> None:
        """Asks; the run goes on to the end of its step."""
        self._asked = True

    def is_asked(self) -> bool:
        """The same answer on all processes of the run, which must all ask at the same step."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return self._asked
        device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
        asked = torch.tensor(int(self._asked), device=device)
        distributed.all_reduce(asked, distributed.ReduceOp.MAX)
        return bool(asked)


@contextmanager
def stopped_by_sigterm() -> Iterator[Stop]:
    """A `Stop` that SIGTERM asks; outside of the main thread, which alone hears signals, nobody does."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.ask()

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
