"""HTTP/2's frames, cut from what a socket brings."""

from collections.abc import Iterator

from hyperframe.exceptions import InvalidFrameError
from hyperframe.frame import Frame

HEAD_BYTES = 9
# The largest frame that everybody must take; nobody is told that this side takes larger ones.
LARGEST = 1 << 14


class Frames:
    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Every frame that is whole by now. Raises HyperframeError for what are no frames."""
        view, at = memoryview(self._rest + data), 0
        while len(view) - at >= HEAD_BYTES:
            frame, length = Frame.parse_frame_header(view[at : at + HEAD_BYTES])
            if length > LARGEST:
                raise InvalidFrameError(f"a frame of {length} bytes: this is not HTTP/2")
            end = at + HEAD_BYTES + length
            if end > len(view):
                break
            frame.parse_body(view[at + HEAD_BYTES : end])
            at = end
            yield frame
        self._rest = bytes(view[at:])
