"""The process that renders chat templates of adapters: a line of JSON in, a line of JSON out.

Out, once it is ready: {}.
In: {"number", "template", "tokens" (special tokens by name), "messages", "seconds" (of processor time)}.
Out: {"number"} with "text" or "error"; or {"ended": exit code, or minus the signal} where who rendered took
longer, or more memory than there is, or was killed.

What takes long is imported once. Who renders is forked from that, and another one when it has ended.
"""

import json
import math
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils.chat_template_utils import render_jinja_template

MAX_ADDRESS_BYTES = 768 * 1024**2
# What those before may leave taken, in compiled templates and pieces: the next has the rest for itself.
WORN_ADDRESS_BYTES = 256 * 1024**2
# More than any context holds.
MAX_CHARS = 32 * 1024**2
# Exit codes of who renders.
NOTHING_LEFT, FAILED, WORN = 0, 1, 2


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    _say({})
    while (code := _run_renderer()) != NOTHING_LEFT:
        if code != WORN:
            _say({"ended": code})


def _run_renderer() -> int:
    """How it ended: an exit code, or minus the signal."""
    pid = os.fork()
    if not pid:
        code = FAILED
        try:
            code = _render()
        finally:
            # At once: a traceback and a shutdown would take longer than most renderings.
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _render() -> int:
    for line in sys.stdin:
        task = json.loads(line)
        _say({"number": task["number"], **_answer(task)})
        if _address_bytes() > WORN_ADDRESS_BYTES:
            return WORN
    return NOTHING_LEFT


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _answer(task: dict[str, Any]) -> dict[str, str]:
    try:
        with _seconds_left(task["seconds"]):
            (text,), _ = render_jinja_template(
                conversations=[task["messages"]],
                chat_template=task["template"],
                add_generation_prompt=True,
                **task["tokens"],
            )
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a template may raise anything, and its users are told
        return {"error": str(error) or type(error).__name__}
    return (
        {"text": text} if len(text) <= MAX_CHARS else {"error": f"it makes more than {MAX_CHARS} characters"}
    )


@contextmanager
def _seconds_left(seconds: float) -> Iterator[None]:
    """Of processor time. Whole ones are all that the limit knows, and the process has used some already."""
    end = math.ceil(time.process_time() + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def _address_bytes() -> int:
    pages = Path("/proc/self/statm").read_text().split()[0]
    return int(pages) * resource.getpagesize()


if __name__ == "__main__":
    main()
