"""One end of a connection between two fronts: lists of messages, each with its length before it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")
LENGTH_BYTES = 4


class Pipe(Generic[T]):
    """Belongs to the event loop. What is told in one turn of the loop travels together."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, heard: Any) -> None:
        """heard: the type of what the other end tells."""
        self._reader = reader
        self._writer = writer
        self._outbox: list[msgspec.Struct] = []
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[list[T]] = msgspec.msgpack.Decoder(list[heard])

    def tell(self, message: msgspec.Struct) -> None:
        """Never waits; lost if the other end is gone."""
        if not self._outbox:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outbox.append(message)

    async def messages(self) -> AsyncIterator[T]:
        """What the other end tells, until it is gone."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
                for message in self._decoder.decode(await self._reader.readexactly(length)):
                    yield message

    async def close(self) -> None:
        """What was told before still goes out."""
        self._flush()
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if outbox and not self._writer.is_closing():
            data = self._encoder.encode(outbox)
            self._writer.write(len(data).to_bytes(LENGTH_BYTES, "big") + data)
