"""Kernels that are compiled and loaded before a step asks for them, beside whatever runs."""

import logging
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

log = logging.getLogger(__name__)

# A call that makes one kernel and keeps it where steps look for it.
Wanted = tuple[Callable[..., object], tuple[Any, ...]]
MOST_THREADS = 8


class Background:
    """Makes all of `wanted`, in this order, several at once; each thread calls `enter` first.

    Half of the processors stay with those who serve.
    """

    def __init__(self, wanted: Iterable[Wanted], enter: Callable[[], object]) -> None:
        threads = max(1, min(MOST_THREADS, len(os.sched_getaffinity(0)) // 2))
        self._pool = ThreadPoolExecutor(threads, "kernels", enter)
        self._making = [self._pool.submit(_make, *each) for each in wanted]

    @property
    def is_done(self) -> bool:
        return all(each.done() for each in self._making)

    def wait(self) -> None:
        """Until all are made."""
        self._pool.shutdown()

    def close(self) -> None:
        """What has not begun is never made."""
        self._pool.shutdown(cancel_futures=True)


def _make(make: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    """The step that needs a kernel which cannot be made meets the same error, and fails alone."""
    try:
        make(*arguments)
    except Exception:
        log.exception("a kernel could not be made ahead of its first use")
