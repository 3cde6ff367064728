"""The front's end of the two sockets that lead to one engine process."""

from pathlib import Path

import msgspec
import zmq
import zmq.asyncio

from server.engine.messages import Command, Report


class EngineSockets:
    """Of their own for each start of an engine: nothing that is meant for a lost one reaches the next."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", folder: Path) -> None:
        # Connected, not bound: a command then waits for the engine in the socket, and never the front.
        self._commands = context.socket(zmq.PUSH)
        self._commands.set_hwm(0)
        self._commands.connect(f"ipc://{folder}/commands")
        self._reports = zmq.asyncio.Context(context).socket(zmq.PULL)
        self._reports.set_hwm(0)
        self._reports.bind(f"ipc://{folder}/reports")
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Report)

    def send(self, command: Command) -> None:
        """Never waits."""
        self._commands.send(self._encoder.encode(command), zmq.NOBLOCK)

    async def receive(self) -> Report:
        report: Report = self._decoder.decode(await self._reports.recv())
        return report

    def close(self) -> None:
        self._commands.close(linger=0)
        self._reports.close(linger=0)
