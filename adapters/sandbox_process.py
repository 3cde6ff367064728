"""The process in which adapters are checked: a line of JSON in, and two of them out.

In: {"folder", "base", "max_rank", "allow_base_mismatch", "files", "cpu_seconds"}.
Out: {"manifest"}, {"problems"} or {"unavailable"}, unless the check came to a bad end; then
{"ended": exit code or minus the signal, "said": the end of its standard error}.

What takes long is imported once. Each check is forked from that, with limits of its own, and ends with its
answer.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any, TextIO

# For those that bring a tokenizer: who waits for its trial need not wait for this as well.
import tokenizers as tokenizers

from adapters.errors import InvalidAdapter
from adapters.format import inspect
from adapters.manifest import BaseShapes, FileSpec

MAX_ADDRESS_BYTES = 2 * 1024**3
# What streams wait for goes first where there are too few cores for both.
NICENESS = 5
MAX_SAID = 2000
FAILED = 1


def main() -> None:
    os.nice(NICENESS)
    gc.freeze()
    # Whatever a library prints is no answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        code, said = _run(line, answers)
        _say({"ended": code, "said": said}, answers)


def _run(line: str, answers: TextIO) -> tuple[int, str]:
    """How the check ended, and the end of what it said about that."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(writing, 2)
        code = FAILED
        try:
            _say(_check(json.loads(line)), answers)
            code = 0
        except BaseException:  # noqa: BLE001 - whoever asked is told, and nothing runs after it
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writing)
    said = _last(reading)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), said


def _check(task: dict[str, Any]) -> dict[str, object]:
    """Limits first, then the files."""
    _limit(task["cpu_seconds"])
    try:
        manifest = inspect(
            Path(task["folder"]),
            BaseShapes.from_json(task["base"]),
            task["max_rank"],
            allow_base_mismatch=task["allow_base_mismatch"],
            known=[FileSpec(**file) for file in task["files"]],
        )
        return {"manifest": manifest.to_json()}
    except InvalidAdapter as error:
        return {"problems": list(error.problems)}
    except OSError as error:
        return {"unavailable": str(error.strerror)}


def _limit(cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _say(answer: dict[str, object], answers: TextIO) -> None:
    answers.write(json.dumps(answer) + "\n")
    answers.flush()


def _last(fd: int) -> str:
    """The end of all that comes from a pipe, which is read to its end."""
    said = b""
    with open(fd, "rb", buffering=0) as pipe:
        while part := pipe.read(1 << 16):
            said = (said + part)[-MAX_SAID:]
    return said.decode(errors="replace")


if __name__ == "__main__":
    main()
