"""The engine's own process: two sockets around the loop.

front --commands--> [ inbox ] engine [ outbox ] --one report a step--> front
"""

import gc
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec
import zmq

from server.engine.bell import Bell
from server.engine.build import build_engine
from server.engine.config import EngineConfig
from server.engine.engine import Engine
from server.engine.messages import Broken, Command, Report, StepReport, Stop

# An idle engine still reports this often.
TICK_SECONDS = 1.0
# Adapters that come ring the bell; what rings none is looked for this often.
LOADING_SECONDS = 0.05
# A thread that reads adapters lets the loop go on after this.
SWITCH_SECONDS = 0.0005

log = logging.getLogger(__name__)


class Mailbox:
    """The engine's end of the sockets in `folder`."""

    def __init__(self, folder: Path) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self._inbox = context.socket(zmq.PULL)
        self._outbox = context.socket(zmq.PUSH)
        for socket in (self._inbox, self._outbox):
            socket.set_hwm(0)
        self._inbox.bind(f"ipc://{folder}/commands")
        self._outbox.connect(f"ipc://{folder}/reports")
        self._poller = zmq.Poller()
        self._poller.register(self._inbox, zmq.POLLIN)
        self._bell: Bell | None = None
        self._decoder = msgspec.msgpack.Decoder(Command)
        self._encoder = msgspec.msgpack.Encoder()

    def put(self, report: Report) -> None:
        self._outbox.send(self._encoder.encode(report))

    def listen(self, bell: Bell) -> None:
        """Whoever waits for commands also wakes when it rings."""
        self._bell = bell
        self._poller.register(bell.fd, zmq.POLLIN)

    def take(self, seconds: float) -> list[Command]:
        """All commands that are there; waits up to `seconds` for the first, or for the bell."""
        if seconds:
            self._poller.poll(int(seconds * 1000) or 1)
        if self._bell is not None:
            self._bell.hush()
        commands: list[Command] = []
        while True:
            try:
                commands.append(self._decoder.decode(self._inbox.recv(zmq.NOBLOCK)))
            except zmq.Again:
                return commands

    def close(self) -> None:
        self._inbox.close(linger=0)
        self._outbox.close(linger=1000)
        zmq.Context.instance().term()


def serve(engine: Engine, mailbox: Mailbox) -> None:
    """The loop, until told to stop."""
    wait, reported_at = 0.0, time.monotonic()
    while True:
        commands = mailbox.take(wait)
        if any(isinstance(command, Stop) for command in commands):
            return
        for command in commands:
            engine.give(command)
        steps = engine.num_steps
        report = engine.step()
        now = time.monotonic()
        if _has_news(report) or now - reported_at >= TICK_SECONDS:
            mailbox.put(report)
            reported_at = now
        is_busy = engine.num_steps > steps or report.tokens or report.failures
        wait = 0.0 if is_busy else TICK_SECONDS if engine.is_idle else LOADING_SECONDS


def _has_news(report: StepReport) -> bool:
    """Whether it says anything that is not said again by the next one."""
    is_answer = report.tokens or report.failures or report.prepared
    return bool(is_answer or report.moved or report.refusals is not None)


def main() -> int:
    """`python -m server.engine.process FOLDER`; the configuration is one line of JSON on standard input."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s engine %(levelname)s %(message)s")
    line = sys.stdin.buffer.readline()
    config = msgspec.json.decode(line, type=EngineConfig, dec_hook=lambda kind, value: kind(value))
    # Ctrl-C and a supervisor's SIGTERM reach the whole group; the front decides when the engine ends.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    mailbox = Mailbox(Path(sys.argv[1]))
    try:
        engine, ready = build_engine(config)
    except Exception as error:
        log.exception("the engine cannot start")
        mailbox.put(Broken(f"{error}" if isinstance(error, (ValueError, OSError)) else repr(error)))
        mailbox.close()
        return 1
    # A full garbage collection over all that is loaded takes 0.2 s; no step is to wait for one.
    gc.collect()
    gc.freeze()
    mailbox.put(ready)
    mailbox.listen(engine.bell)
    sys.setswitchinterval(SWITCH_SECONDS)
    serve(engine, mailbox)
    engine.close()
    mailbox.close()
    return 0


def _die_with_parent() -> None:
    """The parent holds the other end of standard input: its end is ours."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
