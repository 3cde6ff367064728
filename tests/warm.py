"""Processes that start warm: forked from one that has imported what they need, then run as `python -m` does.

this process --request, 4 descriptors--> the warm one, a single thread that only imports and forks
                                           +- guard, which says the pid and waits for the exit status
                                                +- the process
"""

import asyncio
import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, NoReturn

ROOT = Path(__file__).parent.parent
MAX_REQUEST = 1 << 17


@dataclass(frozen=True)
class Request:
    """`python -m module arguments` in this folder with this environment, once `imports` are imported."""

    module: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    imports: list[str]


class Process:
    """A process that was started; its guard's pipe ends with its exit status, negative for a signal."""

    def __init__(self, told: IO[str]) -> None:
        self._told = told
        self.pid = int(told.readline())
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None

    def join(self) -> int:
        """Blocks until it has ended."""
        if self.returncode is None:
            with self._told:
                self.returncode = int(self._told.readline())
        return self.returncode

    async def wait(self) -> int:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        if self.returncode is None:
            loop.add_reader(self._told, ended.set)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(self._told)
        return self.join()

    def kill(self) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)


class Starter:
    """The warm process, as others ask it for processes of theirs."""

    def __init__(self, requests: socket.socket) -> None:
        self._requests = requests

    def start(self, request: Request, streams: Sequence[int]) -> Process:
        """`streams`: its standard input, output and error, which stay the caller's to close."""
        ours, its = os.pipe()
        try:
            message = json.dumps(asdict(request)).encode()
            socket.send_fds(self._requests, [message], [*streams, its])
        finally:
            os.close(its)
        return Process(os.fdopen(ours))

    def run(self, request: Request, output: IO[str]) -> int:
        """The exit status; what it says goes to `output`."""
        with open(os.devnull) as nothing:
            return self.start(request, (nothing.fileno(), output.fileno(), output.fileno())).join()


@contextmanager
def warm() -> Iterator[Starter]:
    """The warm process ends with the block; what it has started goes on."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, its:
        command = [sys.executable, "-m", "tests.warm", str(its.fileno())]
        process = subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, pass_fds=[its.fileno()]
        )
        its.close()
        yield Starter(ours)
        ours.close()
        process.wait()


def _serve(requests: socket.socket) -> Request | None:
    """Comes back once with each request, in a process of its own, and at the end with None."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, 4)
        _bury_guards()
        if not message:
            return None
        request = Request(**json.loads(message))
        _import(request.imports)
        if os.fork() == 0:
            requests.close()
            *streams, told = descriptors
            _guard(told)
            _become(request, streams)
            return request
        for descriptor in descriptors:
            os.close(descriptor)


def _bury_guards() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _import(names: Iterable[str]) -> None:
    for name in names:
        importlib.import_module(name)
    # No collection of a process looks through that again, and so copies it.
    gc.freeze()


def _guard(told: int) -> None:
    """Forks, comes back in the child, and leaves the parent to wait for it."""
    pid = os.fork()
    if pid == 0:
        os.close(told)
        return
    os.write(told, b"%d\n" % pid)
    # A pipe that the process reads or writes must end with it.
    os.closerange(0, told)
    _, status = os.waitpid(pid, 0)
    os.write(told, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


def _become(request: Request, streams: Sequence[int]) -> None:
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request.environment)
    os.chdir(request.folder)
    sys.path[0] = request.folder
    sys.argv[1:] = request.arguments


def _run(module: str) -> NoReturn:
    """Ends as Python does, but for taking apart all that was imported: that takes seconds."""
    # As if it had never been imported.
    sys.modules.pop(module, None)
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main() -> None:
    """`python -m tests.warm DESCRIPTOR`"""
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        _run(request.module)
    os._exit(0)


if __name__ == "__main__":
    main()
