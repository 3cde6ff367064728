"""Calls over one HTTP/2 connection that the event loop reads itself.

grpcio's client hands every message over three threads before Python learns of it, each waiting for the next.
Here the time of a message is that of the read from the socket, before anything is done with it.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from hpack import Decoder, Encoder
from hpack.exceptions import HPACKError
from hyperframe.exceptions import HyperframeError
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

from loadtests.drive.frames import LARGEST, Frames

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# What a side may send before it is told more, unless it is told otherwise.
FIRST_WINDOW = (1 << 16) - 1
# The largest there is: nothing that comes ever waits for this side.
WINDOW = (1 << 31) - 1
TABLE_BYTES = 4096
PROTOCOL_ERROR, REFUSED_STREAM, CANCEL = 1, 7, 8

Header = tuple[str, str]


class BrokenError(Exception):
    """A call that was broken off, by a code of HTTP/2 or with the connection."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(slots=True)
class Stream:
    """take: gets what comes, with the time of the read. headers: the answer's, in the end its trailers too.

    ended: when the answer ended; BrokenError if it did not.
    """

    take: Callable[[float, bytes], None]
    unsent: bytes
    window: int
    ended: "asyncio.Future[float]"
    headers: dict[str, str] = field(default_factory=dict)


class Http2(asyncio.Protocol):
    """is_open: whether it takes more calls. window: bytes that may come before more are allowed."""

    def __init__(self, window: int = WINDOW) -> None:
        self.is_open = False
        self._room = window
        self._transport: asyncio.Transport
        self._clock: Callable[[], float] = time.monotonic
        self._frames, self._encoder, self._decoder = Frames(), Encoder(), Decoder()
        self._streams: dict[int, Stream] = {}
        self._next = 1
        self._block, self._is_last_block = b"", False
        self._window = self._stream_window = FIRST_WINDOW
        self._unsaid = 0
        self._handlers: dict[type[Frame], Callable[[float, Frame], None]] = {
            DataFrame: self._on_data,
            HeadersFrame: self._on_headers,
            ContinuationFrame: self._on_headers,
            RstStreamFrame: self._on_reset,
            SettingsFrame: self._on_settings,
            PingFrame: self._on_ping,
            GoAwayFrame: self._on_leave,
            WindowUpdateFrame: self._on_window,
        }

    def call(
        self,
        headers: Sequence[Header],
        body: bytes,
        take: Callable[[float, bytes], None],
        clock: Callable[[], float],
    ) -> tuple[int, Stream]:
        """Only while it is open. The clock is all calls': one read may bring something for several."""
        self._clock = clock
        number, self._next = self._next, self._next + 2
        ended = asyncio.get_running_loop().create_future()
        stream = self._streams[number] = Stream(take, body, self._stream_window, ended)
        block = self._encoder.encode(headers)
        self._write(HeadersFrame(number, block, flags=["END_HEADERS"]), *self._parts(number, stream))
        return number, stream

    def forget(self, number: int) -> None:
        """Cancels the call if it has not ended."""
        if self._streams.pop(number, None) is not None:
            self._write(RstStreamFrame(number, CANCEL))
        self._leave_if_done()

    def close(self) -> None:
        """At once: the farewell of TLS would take an answer of the server's."""
        self.is_open = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport), "made for streams of bytes"
        self._transport, self.is_open = transport, True
        settings = {SettingsFrame.ENABLE_PUSH: 0, SettingsFrame.INITIAL_WINDOW_SIZE: self._room}
        transport.write(PREFACE)
        self._write(SettingsFrame(settings=settings), WindowUpdateFrame(0, self._room - FIRST_WINDOW))

    def data_received(self, data: bytes) -> None:
        at = self._clock()
        try:
            for frame in self._frames.feed(data):
                if handler := self._handlers.get(type(frame)):
                    handler(at, frame)
        except (HyperframeError, HPACKError) as error:
            self._break_all(f"the server's HTTP/2 is wrong: {error}", PROTOCOL_ERROR)
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.is_open = False
        self._break_all(f"the connection was lost: {error or 'the server closed it'}")

    def _on_data(self, at: float, frame: Frame) -> None:
        assert isinstance(frame, DataFrame)
        self._unsaid += frame.flow_controlled_length
        if self._unsaid > self._room // 2:
            self._write(WindowUpdateFrame(0, self._unsaid))
            self._unsaid = 0
        if stream := self._streams.get(frame.stream_id):
            stream.take(at, frame.data)
            if "END_STREAM" in frame.flags:
                self._end(frame.stream_id, at)

    def _on_headers(self, at: float, frame: Frame) -> None:
        """A block may go on in further frames, and belongs to the connection's state whoever it is for."""
        assert isinstance(frame, (HeadersFrame, ContinuationFrame))
        if isinstance(frame, HeadersFrame):
            self._is_last_block = "END_STREAM" in frame.flags
        self._block += frame.data
        if "END_HEADERS" not in frame.flags:
            return
        headers = self._decoder.decode(self._block)
        self._block = b""
        if stream := self._streams.get(frame.stream_id):
            stream.headers.update((str(name), str(value)) for name, value in headers)
            if self._is_last_block:
                self._end(frame.stream_id, at)

    def _on_reset(self, at: float, frame: Frame) -> None:
        assert isinstance(frame, RstStreamFrame)
        self._break(frame.stream_id, "the server broke the stream off", frame.error_code)

    def _on_settings(self, at: float, frame: Frame) -> None:
        assert isinstance(frame, SettingsFrame)
        if "ACK" in frame.flags:
            return
        told = frame.settings
        window = told.get(SettingsFrame.INITIAL_WINDOW_SIZE, self._stream_window)
        for stream in self._streams.values():
            stream.window += window - self._stream_window
        self._stream_window = window
        table = told.get(SettingsFrame.HEADER_TABLE_SIZE, TABLE_BYTES)
        self._encoder.header_table_size = min(table, TABLE_BYTES)
        self._write(SettingsFrame(flags=["ACK"]), *self._all_parts())

    def _on_ping(self, at: float, frame: Frame) -> None:
        assert isinstance(frame, PingFrame)
        if "ACK" not in frame.flags:
            self._write(PingFrame(opaque_data=frame.opaque_data, flags=["ACK"]))

    def _on_leave(self, at: float, frame: Frame) -> None:
        """The server takes no more calls here; those that it has go on."""
        assert isinstance(frame, GoAwayFrame)
        self.is_open = False
        for number in [number for number in self._streams if number > frame.last_stream_id]:
            self._break(number, "the server leaves and did not take the call", REFUSED_STREAM)
        self._leave_if_done()

    def _on_window(self, at: float, frame: Frame) -> None:
        assert isinstance(frame, WindowUpdateFrame)
        if frame.stream_id == 0:
            self._window += frame.window_increment
        elif stream := self._streams.get(frame.stream_id):
            stream.window += frame.window_increment
        self._write(*self._all_parts())

    def _all_parts(self) -> Iterator[Frame]:
        for number, stream in self._streams.items():
            yield from self._parts(number, stream)

    def _parts(self, number: int, stream: Stream) -> Iterator[Frame]:
        """As much of the request as the server takes by now."""
        while stream.unsent and (room := min(self._window, stream.window, LARGEST)) > 0:
            part, stream.unsent = stream.unsent[:room], stream.unsent[room:]
            self._window -= len(part)
            stream.window -= len(part)
            yield DataFrame(number, part, flags=[] if stream.unsent else ["END_STREAM"])

    def _end(self, number: int, at: float) -> None:
        ended = self._streams.pop(number).ended
        if not ended.done():
            ended.set_result(at)

    def _break(self, number: int, reason: str, code: int | None = None) -> None:
        stream = self._streams.pop(number, None)
        if stream and not stream.ended.done():
            stream.ended.set_exception(BrokenError(reason, code))

    def _break_all(self, reason: str, code: int | None = None) -> None:
        for number in list(self._streams):
            self._break(number, reason, code)

    def _leave_if_done(self) -> None:
        if not self.is_open and not self._streams:
            self._transport.close()

    def _write(self, *frames: Frame) -> None:
        if frames:
            self._transport.write(b"".join(frame.serialize() for frame in frames))
