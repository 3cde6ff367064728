"""The open loop on a clock of its own: what it says of a server whose every second is known."""

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from loadtests.drive.openloop import OpenLoop
from loadtests.drive.records import OK, UNFINISHED, Record, UploadRecord
from loadtests.drive.target import Clock, Served
from loadtests.workload.events import Request, Upload
from tests.loadtests.virtual import VirtualLoop, run_virtual

TICK = 0.002


def requests(*times: float) -> list[Request]:
    return [Request(index, at, "t", "", 4, 2) for index, at in enumerate(times)]


@dataclass
class Server:
    """Answers so many at once, each in `seconds`; holds up the whole loop before its n-th answer."""

    seconds: float = 1.0
    capacity: int = 1000
    stall: dict[int, float] = field(default_factory=dict)
    raises: Exception | None = None

    async def ask(self, request: Request, prompt: list[int], record: Record, clock: Clock) -> None:
        record.sent = clock()
        if request.index in self.stall:
            loop = asyncio.get_running_loop()
            assert isinstance(loop, VirtualLoop)
            loop.pass_time(self.stall[request.index])
        if self.raises is not None:
            raise self.raises
        async with self._turns:
            await asyncio.sleep(self.seconds)
        record.times.append(clock())
        record.counts.append(2)
        record.outcome, record.end = OK, clock()

    async def upload(self, tenant: str, adapter: str, folder: Path) -> str:
        await asyncio.sleep(self.seconds)
        return f"took {folder}"

    async def describe(self) -> Served:
        return Served("s", 100, 0)

    async def close(self) -> None: ...

    async def drive(self, asked: list[Request], uploads: tuple[Upload, ...] = (), drain: float = 60.0) -> Any:
        self._turns = asyncio.Semaphore(self.capacity)
        clock = asyncio.get_running_loop().time
        loop = OpenLoop(self, clock, lambda r: [9] * 4, lambda n: nullcontext(Path(str(n))), drain)
        records, brought = await loop.run(asked, uploads)
        return records, brought, loop.progress


def drive(server: Server, *args: Any, **options: Any) -> tuple[list[Record], list[UploadRecord], Any]:
    return run_virtual(server.drive(*args, **options))  # type: ignore[no-any-return]


def test_requests_leave_when_they_are_due_and_not_when_others_have_ended() -> None:
    records, _, progress = drive(Server(seconds=30.0), requests(0.5, 0.75, 0.75, 2.0))
    assert [r.sent for r in records] == pytest.approx([0.5, 0.75, 0.75, 2.0], abs=TICK)
    assert [r.first_token for r in records] == pytest.approx([30.0] * 4, abs=TICK)
    assert (progress.sent, progress.ok, progress.in_flight, progress.tokens) == (4, 4, 0, 8)


def test_a_queue_shows_which_a_closed_loop_would_hide() -> None:
    """One answer a second is asked for every half second: each waits half a second more than the last."""
    server = Server(seconds=1.0, capacity=1)
    opened, _, _ = drive(server, requests(*(0.5 * n for n in range(40))))
    assert [r.latency for r in opened] == pytest.approx([1 + 0.5 * n for n in range(40)], abs=0.05)
    # The same server asked by one who waits: always a second.
    closed = [drive(server, requests(0.0))[0][0] for _ in range(3)]
    assert [r.latency for r in closed] == pytest.approx([1.0] * 3, abs=TICK)


def test_what_the_driver_itself_is_late_is_latency_too() -> None:
    records, _, progress = drive(Server(seconds=1.0, stall={0: 5.0}), requests(0.0, 1.0, 2.0, 9.0))
    assert [r.lateness for r in records] == pytest.approx([0.0, 4.0, 3.0, 0.0], abs=TICK)
    assert [r.first_token for r in records] == pytest.approx([6.0, 5.0, 4.0, 1.0], abs=TICK)
    assert progress.worst_late == pytest.approx(4.0, abs=TICK)


def test_what_never_ends_is_cut_off_and_said() -> None:
    records, _, progress = drive(Server(seconds=10.0, capacity=1), requests(0.0, 0.0, 0.0), drain=15.0)
    assert [r.outcome for r in records] == [OK, UNFINISHED, UNFINISHED]
    assert (progress.ok, progress.failed) == (1, 2)


def test_uploads_come_beside_requests() -> None:
    uploads = (Upload(1.0, "t", "a", 7), Upload(1.5, "t", "b", 8))
    records, brought, _ = drive(Server(seconds=3.0), requests(1.2), uploads)
    assert records[0].latency == pytest.approx(3.0, abs=TICK)
    assert [u.outcome for u in brought] == ["took 7", "took 8"]
    # Each is written in a thread of its own first, which no virtual clock times.
    assert all(u.end >= u.scheduled + 3.0 for u in brought)


def test_uploads_alone_have_their_time_after_the_last_is_due() -> None:
    _, brought, _ = drive(Server(seconds=3.0), [], (Upload(9.0, "t", "a", 7),), drain=4.0)
    assert [u.outcome for u in brought] == ["took 7"]


def test_a_fault_of_the_driver_is_no_outcome() -> None:
    with pytest.raises(ZeroDivisionError):
        drive(Server(raises=ZeroDivisionError()), requests(0.0))
