"""Where adapters are packed: beside the steps, and on a GPU also beside their interpreter's lock.

Packing takes thousands of small operations. On a thread of the engine each of them waits for the lock and
makes the step wait for it; a process of its own has a lock of its own.
"""

import logging
import multiprocessing
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import ParamSpec

import torch

NUM_PACKERS = 2
# What steps and streams wait for goes first where there are too few cores for all.
NICENESS = 5

P = ParamSpec("P")
log = logging.getLogger(__name__)


class Packers:
    """Thread-safe. Processes are begun at once, so that the first upload need not wait for their start.

    likely: something of what they will be sent; to take it in, they import what packing needs.
    """

    def __init__(self, as_processes: bool, likely: object = None) -> None:
        self._as_processes = as_processes
        self._likely = likely
        self._lock = threading.Lock()
        self._pool = self._begin()

    def run(self, work: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Waits for it, and raises what it raises; OSError if its process was lost."""
        pool = self._pool
        try:
            pool.submit(work, *args, **kwargs).result()
        except BrokenProcessPool as error:
            self._replace(pool)
            raise OSError(0, "a process that packs adapters was lost") from error

    def _replace(self, broken: Executor) -> None:
        with self._lock:
            if self._pool is broken:
                log.error("a process that packs adapters was lost; others are begun")
                self._pool = self._begin()

    def _begin(self) -> Executor:
        if not self._as_processes:
            # Not of lower priority: one that waits for a core would keep steps from the interpreter's lock.
            return ThreadPoolExecutor(NUM_PACKERS, thread_name_prefix="packer")
        # A fork would share the engine's locks and its device.
        spawn = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(NUM_PACKERS, spawn, _begin_process, (self._likely,))
        for _ in range(NUM_PACKERS):
            pool.submit(_nothing)
        return pool


def _begin_process(likely: object) -> None:
    os.nice(NICENESS)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """An engine that is killed tells nobody."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "this is no process of an engine"
    wait([parent.sentinel])
    os._exit(1)


def _nothing() -> None:
    """Has a process begun."""
