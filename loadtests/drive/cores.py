"""The cores that processes of the driver get: which ones, and how long they waited for them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TASKS = Path("/proc/self/task")


def waited_seconds() -> float:
    """That threads of this process could have run and had no core; nan where the system does not say."""
    try:
        return sum(int((task / "schedstat").read_text().split()[1]) for task in TASKS.iterdir()) / 1e9
    except (OSError, IndexError):
        return float("nan")


@contextmanager
def beside(pid: int) -> Iterator[None]:
    """The process keeps one core; this one, with what it starts meanwhile, the others, if there are any."""
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if len(cores) < 2:
        yield
        return
    own = max(cores)
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {own})
    os.sched_setaffinity(0, cores - {own})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
