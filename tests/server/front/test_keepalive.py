"""Pings on the wire: in time they are answered, a flood ends its connection, and a dead peer is noticed."""

import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import pytest

from lorikeet.v1 import inference_pb2 as pb
from server import listener
from tests.server.front.house import PATIENCE, House, Open, batches

# RFC 9113.
DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
ACK, END_STREAM, END_HEADERS = 1, 1, 4
ENHANCE_YOUR_CALM = 11
# The documented times in the same proportions, a hundred times as fast.
FASTER = 100
TIMES = {
    "grpc.keepalive_time_ms",
    "grpc.keepalive_timeout_ms",
    "grpc.http2.ping_timeout_ms",
    "grpc.http2.min_ping_interval_without_data_ms",
}


@dataclass
class Frame:
    kind: int
    flags: int
    payload: bytes


class Wire:
    """A client of which only the wire is there. `answers`: pings of the server, while it reads."""

    def __init__(self, port: int, answers: bool = True) -> None:
        self._answers = answers
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._file = self._socket.makefile("rb")
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(SETTINGS)
        self.until(SETTINGS)
        self.send(SETTINGS, ACK)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._socket.close()

    def send(self, kind: int, flags: int = 0, payload: bytes = b"", stream: int = 0) -> None:
        header = struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
        self._socket.sendall(header + payload)

    def frames(self) -> Iterator[Frame]:
        """Until the server closes the connection."""
        while len(header := self._file.read(9)) == 9:
            length = int.from_bytes(header[:3], "big")
            frame = Frame(header[3], header[4], self._file.read(length))
            if self._answers and (frame.kind, frame.flags) == (PING, 0):
                self.send(PING, ACK, frame.payload)
            yield frame

    def until(self, kind: int, flags: int = 0) -> Frame:
        return next(frame for frame in self.frames() if (frame.kind, frame.flags & flags) == (kind, flags))

    def ping(self, number: int) -> None:
        self.send(PING, payload=number.to_bytes(8, "big"))

    def generate(self, request: pb.GenerateRequest) -> None:
        """The call begins; nobody reads its answer."""
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": "/lorikeet.v1.Inference/Generate",
            ":authority": "localhost",
            "te": "trailers",
            "content-type": "application/grpc",
        }
        # HPACK's plainest form: neither indexed nor compressed.
        block = b"".join(
            b"\x00" + bytes((len(name),)) + name.encode() + bytes((len(value),)) + value.encode()
            for name, value in fields.items()
        )
        message = request.SerializeToString()
        self.send(HEADERS, END_HEADERS, block, stream=1)
        self.send(DATA, END_STREAM, b"\x00" + struct.pack(">I", len(message)) + message, stream=1)


@pytest.fixture
def fast_house(open_house: Open, monkeypatch: pytest.MonkeyPatch) -> House:
    faster = [(name, value // FASTER if name in TIMES else value) for name, value in listener.OPTIONS]
    monkeypatch.setattr(listener, "OPTIONS", tuple(faster))
    return open_house()


def test_pings_within_the_limit_are_answered_for_as_long_as_they_come(fast_house: House) -> None:
    interval = dict(listener.OPTIONS)["grpc.http2.min_ping_interval_without_data_ms"] / 1000
    with Wire(fast_house.front.port) as wire:
        for number in range(8):
            wire.ping(number)
            assert wire.until(PING, ACK).payload == number.to_bytes(8, "big")
            # What is allowed is a matter of time.
            time.sleep(1.5 * interval)


def test_a_flood_of_pings_ends_the_connection_and_no_other(house: House, text: Any) -> None:
    with Wire(house.front.port) as calm, Wire(house.front.port) as wire:
        for number in range(8):
            wire.ping(number)
        payload = wire.until(GOAWAY).payload
        assert int.from_bytes(payload[4:8], "big") == ENHANCE_YOUR_CALM
        assert payload[8:] == b"too_many_pings"
        assert list(wire.frames()) == [], "and it is closed"
        calm.ping(1)
        assert calm.until(PING, ACK)


def test_a_peer_that_answers_no_ping_is_dead_and_its_place_is_free(fast_house: House) -> None:
    """Its connection stands, as that of a machine whose process hangs."""
    times: dict[str, int] = dict(listener.OPTIONS)
    stated = (times["grpc.keepalive_time_ms"] + times["grpc.keepalive_timeout_ms"]) / 1000
    fast_house.link.script = lambda request: batches(request, [40], finish="")
    with Wire(fast_house.front.port, answers=False) as wire:
        wire.generate(pb.GenerateRequest(prompt="x"))
        fast_house.link.wait(lambda: len(fast_house.link.submitted) == 1)
        began = time.monotonic()
        fast_house.link.wait(lambda: len(fast_house.link.aborted) == 1)
        assert time.monotonic() - began < 3 * stated
        fast_house.loop.run(fast_house.front._generating.wait_idle())


def test_a_peer_that_answers_pings_keeps_a_silent_call(fast_house: House) -> None:
    fast_house.link.script = lambda request: batches(request, [40], finish="")
    with Wire(fast_house.front.port) as wire:
        wire.generate(pb.GenerateRequest(prompt="x"))
        for _ in range(3):
            wire.until(PING)
        assert fast_house.front._generating.num_live == 1
        assert fast_house.link.aborted == []
