"""However a socket cuts its bytes, the same frames and the same messages come of them."""

from itertools import pairwise

import pytest
from hyperframe.exceptions import InvalidFrameError
from hyperframe.frame import DataFrame, PingFrame
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.drive.calls import Messages
from loadtests.drive.frames import Frames

BODIES = st.lists(st.binary(max_size=40), max_size=6)
CUTS = st.lists(st.integers(0, 300), max_size=12)


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(min(place, len(data)) for place in cuts)})
    return [data[start:end] for start, end in pairwise(places)]


@settings(max_examples=50)
@given(BODIES, CUTS)
def test_frames_that_are_cut_anywhere(bodies: list[bytes], cuts: list[int]) -> None:
    data = b"".join(DataFrame(2 * n + 1, body).serialize() for n, body in enumerate(bodies))
    frames = Frames()
    found = [frame for part in cut(data, cuts) for frame in frames.feed(part)]
    assert [(f.stream_id, f.data) for f in found if isinstance(f, DataFrame)] == [
        (2 * n + 1, body) for n, body in enumerate(bodies)
    ]


@settings(max_examples=50)
@given(BODIES, CUTS)
def test_a_message_has_the_time_of_its_last_byte(bodies: list[bytes], cuts: list[int]) -> None:
    whole = [b"\0" + len(body).to_bytes(4, "big") + body for body in bodies]
    ends = [sum(map(len, whole[: n + 1])) for n in range(len(whole))]
    heard: list[tuple[float, bytes]] = []
    messages, read = Messages(lambda at, data: heard.append((at, data))), 0
    for part in cut(b"".join(whole), cuts):
        read += len(part)
        messages(float(read), part)
    assert [body for _, body in heard] == bodies
    # The first read after which all of it was there.
    reads = sorted({min(place, ends[-1]) for place in cuts} | {ends[-1]}) if ends else []
    assert [at for at, _ in heard] == [min(read for read in reads if read >= end) for end in ends]


def test_what_is_not_http2_is_refused() -> None:
    with pytest.raises(InvalidFrameError, match="not HTTP/2"):
        list(Frames().feed(b"HTTP/1.1 400 Bad Request\r\n"))


def test_nothing_is_lost_between_two_kinds() -> None:
    data = (
        PingFrame(opaque_data=b"12345678").serialize() + DataFrame(1, b"x", flags=["END_STREAM"]).serialize()
    )
    ping, last = Frames().feed(data)
    assert isinstance(ping, PingFrame) and ping.opaque_data == b"12345678"
    assert isinstance(last, DataFrame) and "END_STREAM" in last.flags
