"""A server in a process of its own, for as long as a `with` block lasts."""

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lorikeet.client import Client

_LAST_LINES = 20
_START_SECONDS = 300


class ServerEnded(Exception):
    """The server's process ended; the message ends with the last lines of its log."""


@dataclass(frozen=True)
class Serving:
    """A server process, where it listens and where it writes."""

    process: "subprocess.Popen[bytes]"
    target: str
    log: Path

    def require_alive(self) -> None:
        """Raises ServerEnded with the end of the log if the process has ended."""
        code = self.process.poll()
        if code is not None:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LAST_LINES:]
            raise ServerEnded(
                "\n".join([f"the server ended with exit code {code}; {self.log} ends with:", *lines])
            )

    def wait_ready(self, client: "Client") -> None:
        """Returns when the base is loaded; raises ServerEnded, or DeadlineExceeded after five minutes."""
        from lorikeet.errors import DeadlineExceeded

        for _ in range(_START_SECONDS):
            self.require_alive()
            with suppress(DeadlineExceeded):
                client.wait_ready(timeout=1.0)
                return
        client.wait_ready(timeout=1.0)


@contextmanager
def serving(base: Path, folder: Path, flags: Sequence[str] = ()) -> Iterator[Serving]:
    """Starts `lorikeet serve` on a free port and stops it at the end. Its log and store are in `folder`."""
    port = _free_port()
    command = [sys.executable, "-m", "lorikeet.cli", "serve", "--base", str(base), "--port", str(port)]
    command += [
        "--host",
        "127.0.0.1",
        "--metrics-port",
        "-1",
        "--adapter-store",
        str(folder / "store"),
        *flags,
    ]
    log = folder / "server.log"
    with log.open("wb") as output:
        # A group of its own: Ctrl-C ends this process, and this process the server, once and in that order.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
        )
    try:
        with _terminated_as_interrupt():
            yield Serving(process, f"127.0.0.1:{port}", log)
    finally:
        _stop(process)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _stop(process: "subprocess.Popen[bytes]", patience: float = 45.0) -> None:
    # Longer than the server gives its last requests.
    process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextmanager
def _terminated_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack like Ctrl-C, so that the server does not outlive this process."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
