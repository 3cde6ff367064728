import asyncio
from typing import Any

import pytest

from lorikeet.v1 import inference_pb2 as pb
from server.errors import SlowReader
from server.writer import Writer
from tests.loadtests.virtual import run_virtual

PATIENCE = 30.0


class Reader:
    """Takes each message after the next of so many seconds, and then none."""

    def __init__(self, *seconds: float) -> None:
        self._seconds = iter(seconds)

    async def send_initial_metadata(self, metadata: Any) -> None:
        pass

    async def write(self, message: pb.GenerateResponse) -> None:
        await asyncio.sleep(next(self._seconds, 3600.0))


async def seconds_to_cut(reader: Reader) -> float:
    """From the beginning of the write that is never done."""
    writer, loop = Writer(reader, PATIENCE), asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(SlowReader, match="for 30 seconds"):
        async with writer.watched():
            while True:
                began = loop.time()
                await writer.write(pb.GenerateResponse())
    return loop.time() - began


@pytest.mark.parametrize("before", [(), (20.0,), (1.0, 28.0, 2.0), (29.0,) * 10, (0.1,) * 1000])
def test_a_reader_is_cut_when_it_took_nothing_for_so_long(before: tuple[float, ...]) -> None:
    """Neither later nor earlier, whatever it took before."""
    assert run_virtual(seconds_to_cut(Reader(*before))) == pytest.approx(PATIENCE, abs=0.01)


def test_who_takes_in_time_is_never_cut() -> None:
    async def scenario() -> float:
        loop, writer = asyncio.get_running_loop(), Writer(Reader(*[29.0] * 5), PATIENCE)
        async with writer.watched():
            for _ in range(5):
                await writer.write(pb.GenerateResponse())
        return loop.time()

    assert run_virtual(scenario()) == pytest.approx(5 * 29.0, abs=0.01)
