"""Fixtures of the front's tests."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from server.app import Front
from server.config import ServerConfig
from server.text import Text
from tests.server.front.house import FakeLink, House, Loop, Open
from tests.server.front.tiny import make_base


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("bases") / "tiny-llama")


@pytest.fixture(scope="session")
def text(base: Path) -> Text:
    return Text(str(base))


@pytest.fixture(scope="session")
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def open_house(base: Path, loop: Loop, tmp_path: Path) -> Iterator[Open]:
    """Starts fronts, each on a port and a store of its own."""
    opened: list[House] = []

    def open_(ready: bool = True, link: FakeLink | None = None, **options: Any) -> House:
        defaults = {"port": 0, "metrics_port": -1, "stream_interval": 0.0, "max_rank": 16, "reflection": True}
        store = tmp_path / f"store{len(opened)}"
        config = ServerConfig(**{"base": str(base), "adapter_store": store, **defaults, **options})
        link = link or FakeLink()
        link.loads = ready
        front = Front(config, lambda config: link)
        loop.run(front.start())
        house = House(front, link, loop, grpc.insecure_channel(f"127.0.0.1:{front.port}"))
        opened.append(house)
        if ready:
            loop.run(front.wait_ready())
        return house

    yield open_
    for house in opened:
        house.channel.close()
        loop.run(house.front.stop())


@pytest.fixture
def house(open_house: Open) -> House:
    return open_house()
