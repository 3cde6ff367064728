"""The other side of `limited_child`: lines of JSON in, lines of JSON out, within limits of time and memory.

Out, once it is ready: {}.
In: {"number", "seconds" (of processor time)} with what is asked.
Out: {"number"} with the answer; or {"ended": exit code, or minus the signal} where who worked took longer, or
more memory than there is, or was killed.

What takes long is imported or read once. Who works is forked from that, and another one when it has ended.
"""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Task = dict[str, Any]
Answer = Callable[[Task], dict[str, Any]]

MAX_ADDRESS_BYTES = 768 * 1024**2
# Exit codes of who works.
NOTHING_LEFT, FAILED, WORN = 0, 1, 2


def serve(answer: Answer, worn_bytes: int, max_bytes: int = MAX_ADDRESS_BYTES) -> None:
    """Until nobody asks any more. Bytes are of addresses; a MemoryError ends who works.

    worn_bytes: what those before may leave taken; beyond it another one is forked, which has the rest.
    """
    limit_bytes(max_bytes)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _say({})
    while (code := _run_worker(answer, worn_bytes)) != NOTHING_LEFT:
        if code != WORN:
            _say({"ended": code})


def limit_bytes(max_bytes: int) -> None:
    """Of addresses, from here on; never more again."""
    resource.setrlimit(resource.RLIMIT_AS, (max_bytes, max_bytes))


def address_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()


def _run_worker(answer: Answer, worn_bytes: int) -> int:
    """How it ended: an exit code, or minus the signal."""
    pid = os.fork()
    if not pid:
        code = FAILED
        try:
            code = _work(answer, worn_bytes)
        finally:
            # At once: a traceback and a shutdown would take longer than most answers.
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _work(answer: Answer, worn_bytes: int) -> int:
    for line in sys.stdin:
        task = json.loads(line)
        with _seconds_left(task["seconds"]):
            found = answer(task)
        _say({"number": task["number"], **found})
        if address_bytes() > worn_bytes:
            return WORN
    return NOTHING_LEFT


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


@contextmanager
def _seconds_left(seconds: float) -> Iterator[None]:
    """Of processor time. Whole ones are all that the limit knows, and the process has used some already."""
    end = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
