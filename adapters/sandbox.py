"""The same check in a process of its own: a crash, a memory bomb or an endless loop costs that process only.

The child gets the folder, the base's shapes and its limits on stdin, and answers one JSON object on stdout.
It inherits no environment, so no secrets.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from adapters.errors import InvalidAdapter, StoreUnavailable
from adapters.files import OPTIONAL_FILES, WEIGHTS_NAME
from adapters.format import inspect
from adapters.manifest import BaseShapes, FileSpec, Manifest

MAX_ADDRESS_BYTES = 2 * 1024**3
CPU_SECONDS = 5
CPU_SECONDS_PER_GIB = 20
CPU_SECONDS_PER_GIB_OF_TEXT = 256
# Wall time is only a backstop for a child that waits instead of working; a busy machine must not hit it.
WALL_FACTOR = 12
_log = logging.getLogger(__name__)
_COMMAND = "import sys; from adapters.sandbox import main; sys.exit(main())"


def inspect_in_sandbox(
    folder: Path,
    base: BaseShapes,
    max_rank: int,
    allow_base_mismatch: bool = False,
    files: Sequence[FileSpec] = (),
) -> Manifest:
    """`inspect` in a limited subprocess; blocks, so call it off the event loop.

    files: those of the folder whose hashes are known.

    Raises InvalidAdapter for every problem, and also when the child crashes or exceeds its limits. Raises
    StoreUnavailable when the folder cannot be read or no process can be started.
    """
    cpu_seconds = _cpu_seconds(folder)
    task = {
        "folder": str(folder),
        "base": base.to_json(),
        "max_rank": max_rank,
        "allow_base_mismatch": allow_base_mismatch,
        "files": [asdict(file) for file in files],
        "cpu_seconds": cpu_seconds,
    }
    try:
        child = subprocess.run(
            [sys.executable, "-s", "-c", _COMMAND],
            input=json.dumps(task).encode(),
            capture_output=True,
            env=environment(),
            timeout=cpu_seconds * WALL_FACTOR,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidAdapter(["checking its files took too long"]) from error
    except OSError as error:
        raise StoreUnavailable(
            f"The check could not be started ({error.strerror}); try again later."
        ) from error
    return _read_answer(child)


def main() -> int:
    """The child: limits first, then the files."""
    task = json.load(sys.stdin)
    _limit(int(task["cpu_seconds"]))
    try:
        manifest = inspect(
            Path(task["folder"]),
            BaseShapes.from_json(task["base"]),
            task["max_rank"],
            allow_base_mismatch=task["allow_base_mismatch"],
            known=[FileSpec(**file) for file in task["files"]],
        )
        answer: dict[str, object] = {"manifest": manifest.to_json()}
    except InvalidAdapter as error:
        answer = {"problems": list(error.problems)}
    except OSError as error:
        answer = {"unavailable": str(error.strerror)}
    json.dump(answer, sys.stdout)
    return 0


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


def environment() -> dict[str, str]:
    """Of a child that should find this process's packages, and none of its secrets."""
    path = os.pathsep.join([str(Path(__file__).resolve().parent.parent), *filter(None, sys.path)])
    # One BLAS thread: dozens would reserve more address space than the limit allows.
    return {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PATH": os.defpath}


def _limit(cpu_seconds: int) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    resource.setrlimit(resource.RLIMIT_AS, (MAX_ADDRESS_BYTES, MAX_ADDRESS_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _read_answer(child: subprocess.CompletedProcess[bytes]) -> Manifest:
    if child.returncode != 0:
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"status {child.returncode}"
        _log.error(
            "the check of an upload ended with %s: %s", how, child.stderr[-2000:].decode(errors="replace")
        )
        raise InvalidAdapter([f"checking its files failed or went over its limits ({how})"])
    try:
        answer = json.loads(child.stdout)
        if "unavailable" in answer:
            raise StoreUnavailable(
                f"The adapter's files could not be read ({answer['unavailable']}); try again later."
            )
        if "problems" in answer:
            raise InvalidAdapter(answer["problems"])
        return Manifest.from_json(answer["manifest"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidAdapter(["checking its files gave no readable answer"]) from error
