"""One connection, with each frame of the server's written by hand."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from loadtests.drive.calls import CallError, stream
from loadtests.drive.frames import Frames
from loadtests.drive.http2 import CANCEL, FIRST_WINDOW, PREFACE, REFUSED_STREAM, Http2

OK_TRAILERS = [("grpc-status", "0")]


class Transport(asyncio.Transport):
    """What was written, as frames."""

    def __init__(self) -> None:
        super().__init__()
        self._frames = Frames()
        self.frames: list[Frame] = []
        self.closed = False

    def write(self, data: Any) -> None:
        self.frames.extend(self._frames.feed(bytes(data).removeprefix(PREFACE)))

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def took(self, kind: type[Frame]) -> list[Any]:
        return [frame for frame in self.frames if type(frame) is kind]


class Server:
    """The other end of one connection, whose time is the number of its reads."""

    def __init__(self, window: int = 1 << 20) -> None:
        self.transport, self.connection = Transport(), Http2(window)
        self.connection.connection_made(self.transport)
        self.headers = Encoder()
        self.reads = 0.0

    def say(self, *frames: Frame) -> None:
        self.reads += 1
        self.connection.data_received(b"".join(frame.serialize() for frame in frames))

    def trailers(self, number: int, *headers: tuple[str, str]) -> HeadersFrame:
        block = self.headers.encode(headers or OK_TRAILERS)
        return HeadersFrame(number, block, flags=["END_HEADERS", "END_STREAM"])

    async def ask(self, heard: list[tuple[float, bytes]], message: bytes = b"x") -> float:
        def hear(at: float, data: bytes) -> None:
            heard.append((at, data))

        return await stream(self.connection, [(":path", "/p")], message, hear, lambda: self.reads)


def answered(say: Callable[[Server], None], message: bytes = b"x", window: int = 1 << 20) -> Any:
    """What a call makes of the server's words: its messages and its end; the server as it is then."""

    async def main() -> Any:
        server, heard = Server(window), list[tuple[float, bytes]]()
        call = asyncio.create_task(server.ask(heard, message))
        await asyncio.sleep(0)
        say(server)
        return heard, await asyncio.wait_for(call, 5), server

    return asyncio.run(main())


def message(body: bytes) -> bytes:
    return b"\0" + len(body).to_bytes(4, "big") + body


def test_all_of_one_read_has_its_time() -> None:
    def say(server: Server) -> None:
        server.say(
            DataFrame(1, message(b"a")),
            DataFrame(1, message(b"b") + message(b"c")[:3], pad_length=7, flags=["PADDED"]),
        )
        server.say(DataFrame(1, message(b"c")[3:]), server.trailers(1))

    heard, end, _ = answered(say)
    assert (heard, end) == ([(1.0, b"a"), (1.0, b"b"), (2.0, b"c")], 2.0)


def test_headers_in_several_frames_are_one_block_for_any_stream() -> None:
    def say(server: Server) -> None:
        """The table of headers lives on, also from blocks of streams that nobody reads."""
        block = server.headers.encode([("grpc-status", "0"), ("a", "b" * 90)])
        server.say(HeadersFrame(9, block[:5], flags=["END_STREAM"]))
        server.say(ContinuationFrame(9, block[5:], flags=["END_HEADERS"]), server.trailers(1))

    assert answered(say)[1] == 2.0


def test_a_request_goes_out_as_far_as_the_server_takes_it() -> None:
    sent: list[int] = []

    def say(server: Server) -> None:
        def count() -> None:
            sent.append(sum(len(frame.data) for frame in server.transport.took(DataFrame)))

        count()
        server.say(WindowUpdateFrame(0, 1000), WindowUpdateFrame(1, 400))
        count()
        server.say(SettingsFrame(settings={SettingsFrame.INITIAL_WINDOW_SIZE: FIRST_WINDOW + 100}))
        count()
        server.say(WindowUpdateFrame(1, 1 << 20), WindowUpdateFrame(0, 1 << 20), server.trailers(1))
        count()

    server = answered(say, b"x" * 70_000)[2]
    assert sent == [FIRST_WINDOW, FIRST_WINDOW + 400, FIRST_WINDOW + 500, 70_005]
    ends = ["END_STREAM" in frame.flags for frame in server.transport.took(DataFrame)]
    assert ends[-1] and not any(ends[:-1])


def test_the_server_never_waits_for_room_and_hears_from_its_pings() -> None:
    def say(server: Server) -> None:
        for _ in range(20):
            server.say(DataFrame(1, message(b"y" * 9_995)))
        server.say(PingFrame(opaque_data=b"abcdefgh"), server.trailers(1))

    heard, _, server = answered(say, window=100_000)
    assert len(heard) == 20
    first, *more = server.transport.took(WindowUpdateFrame)
    assert first.window_increment == 100_000 - FIRST_WINDOW
    assert [frame.window_increment for frame in more] == [60_000] * 3
    (pong,) = server.transport.took(PingFrame)
    assert pong.opaque_data == b"abcdefgh" and "ACK" in pong.flags


@pytest.mark.parametrize(
    ("frame", "outcome", "reason"),
    [
        (RstStreamFrame(1, REFUSED_STREAM), "unavailable", "broke the stream off"),
        (RstStreamFrame(1, CANCEL), "cancelled", "broke the stream off"),
        (RstStreamFrame(1, 2), "internal", "broke the stream off"),
        (GoAwayFrame(last_stream_id=0), "unavailable", "did not take the call"),
        (DataFrame(1, b"", flags=["END_STREAM"]), "unknown", "none of gRPC"),
        (PingFrame(opaque_data=b"8 bytes!", flags=["ACK"]), "unavailable", "lost: reset"),
    ],
)
def test_ends_that_are_none(frame: Frame, outcome: str, reason: str) -> None:
    def say(server: Server) -> None:
        server.say(frame)
        server.connection.connection_lost(ConnectionResetError("reset"))

    with pytest.raises(CallError, match=reason) as caught:
        answered(say)
    assert caught.value.outcome == outcome


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400 Bad Request\r\n", HeadersFrame(1, b"\xff" * 9, flags=["END_HEADERS"]).serialize()]
)
def test_a_server_that_speaks_something_else(data: bytes) -> None:
    with pytest.raises(CallError, match="the server's HTTP/2 is wrong") as caught:
        answered(lambda server: server.connection.data_received(data))
    assert caught.value.outcome == "internal"


@pytest.mark.parametrize(("status", "outcome"), [("503", "unavailable"), ("404", "unimplemented")])
def test_an_http_server_without_grpc(status: str, outcome: str) -> None:
    with pytest.raises(CallError, match=f"HTTP status {status}") as caught:
        answered(lambda server: server.say(server.trailers(1, (":status", status))))
    assert caught.value.outcome == outcome


def test_who_leaves_ends_what_it_has_and_is_left_then() -> None:
    def say(server: Server) -> None:
        server.say(GoAwayFrame(last_stream_id=1))
        assert not server.connection.is_open and not server.transport.closed
        server.say(DataFrame(1, message(b"a")), server.trailers(1))

    heard, _, server = answered(say)
    assert heard == [(2.0, b"a")] and server.transport.closed
