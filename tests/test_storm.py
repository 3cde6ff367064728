"""A server after a storm is the server before it, and one that runs for long grows by nothing."""

import asyncio
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from lorikeet import Client
from lorikeet.local import Serving, _free_port
from tests.storm import Holdings, Storm, growth, holdings, rest
from tests.toys import make_adapter
from tests.whole import FLAGS, make_whole_base, ready

log = logging.getLogger(__name__)

ADAPTERS = [f"a{number}" for number in range(4)]
# Of which two fit the device at once.
SLOTS = ("--adapter-slots", "2")


@dataclass
class Weathered:
    """A server with two fronts, and an adapter's folder to upload."""

    serving: Serving
    metrics_port: int
    folder: Path

    def processes(self) -> dict[str, int]:
        """The engine, the first front and the other one."""
        first = psutil.Process(self.serving.process.pid)
        found = {"first front": first.pid}
        for child in first.children():
            name = "engine" if "server.engine.process" in child.cmdline() else "other front"
            found[name] = child.pid
        return found


@pytest.fixture(scope="module")
def weathered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Weathered]:
    root = tmp_path_factory.mktemp("storm")
    base = make_whole_base(root / "base")
    folder, port = make_adapter(base, root / "adapter", r=4), _free_port()
    flags = (*FLAGS, *SLOTS, "--fronts", "2", "--metrics-port", str(port))
    with ready(base, root, flags, timeout=300) as (server, client):
        for seed, name in enumerate(ADAPTERS):
            client.adapters.upload(make_adapter(base, root / name, seed, r=4 + seed), name)
        weathered = Weathered(server, port, folder)
        while len(weathered.processes()) < 3:
            time.sleep(0.05)
        yield weathered


@pytest.mark.parametrize(
    "num_calls", [120, pytest.param(10_000, marks=[pytest.mark.long, pytest.mark.timeout(7200)])]
)
def test_after_a_storm_everything_is_free(weathered: Weathered, num_calls: int) -> None:
    """Cancels, deadlines, disconnects, slow readers and nonsense at random, over both fronts."""
    before = weathered.processes()
    storm = Storm(weathered.serving.target, ADAPTERS, seed=num_calls)

    async def scenario() -> dict[str, float]:
        await storm.blow(num_calls, at_once=48)
        return await rest(weathered.metrics_port, 60.0)

    began = time.monotonic()
    assert asyncio.run(scenario()) == {}
    log.info("%d calls in %.0f s: %s", num_calls, time.monotonic() - began, dict(storm.ends))
    assert storm.wrong == {}
    assert weathered.processes() == before, "nothing died"
    written = weathered.serving.log.read_text()
    assert "Traceback" not in written and "incident" not in written


class Soak:
    """Storms, uploads and deletions without a pause; what each process holds is looked at now and then."""

    def __init__(self, server: Weathered, seconds: float, pause: float) -> None:
        self.storm = Storm(server.serving.target, ADAPTERS, seed=int(seconds))
        self.samples: dict[str, list[Holdings]] = {name: [] for name in server.processes()}
        self._server = server
        self._end = time.monotonic() + seconds
        self._pause = pause

    async def run(self) -> dict[str, float]:
        """What is held at the end although nobody asks any more."""
        await asyncio.gather(self._load(), self._change(), self._look())
        return await rest(self._server.metrics_port, 60.0)

    async def _load(self) -> None:
        while time.monotonic() < self._end:
            await self.storm.blow(20, at_once=16, pause=self._pause)

    async def _change(self) -> None:
        with Client(self._server.serving.target, timeout=300) as client:
            while time.monotonic() < self._end:
                stored = await asyncio.to_thread(client.adapters.upload, self._server.folder, "passing")
                await asyncio.sleep(50 * self._pause)
                await asyncio.to_thread(client.adapters.delete, stored.id)

    async def _look(self) -> None:
        while time.monotonic() < self._end:
            for name, pid in self._server.processes().items():
                self.samples[name].append(holdings(pid))
            await asyncio.sleep(25 * self._pause)


# At the short one only the books and the ends are looked at: it is all warming up.
@pytest.mark.parametrize(
    ("seconds", "pause"),
    [(3.0, 0.02), pytest.param(1800.0, 0.4, marks=[pytest.mark.long, pytest.mark.timeout(3600)])],
)
def test_mixed_load_for_long_grows_nothing(weathered: Weathered, seconds: float, pause: float) -> None:
    soak = Soak(weathered, seconds, pause)
    assert asyncio.run(soak.run()) == {}
    grown = {name: growth(each) for name, each in soak.samples.items()}
    for name, each in soak.samples.items():
        log.info("%s: %d looks, at the end %s, grown by %s", name, len(each), each[-1], grown[name])
    log.info("%d calls: %s", soak.storm.ends.total(), dict(soak.storm.ends))
    assert soak.storm.wrong == {}
    if seconds > 60.0:
        for each in grown.values():
            # A pool may still be a thread short; what leaks one with every upload has lost 30 by then.
            assert each.megabytes < 3.0 and each.files < 3 and each.threads < 3, grown


LEAKING = "import time\nheld = []\nwhile True:\n    held.append(bytearray({bytes}))\n    time.sleep(0.005)"


@pytest.mark.parametrize("num_bytes", [0, 200_000])
def test_a_leak_would_be_seen(num_bytes: int) -> None:
    """The measure itself, on a process that loses memory and on one that does not."""
    child = subprocess.Popen([sys.executable, "-c", LEAKING.format(bytes=num_bytes)])
    try:
        samples = []
        for _ in range(90):
            samples.append(holdings(child.pid))
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    assert (growth(samples).megabytes > 3.0) is (num_bytes > 0)
