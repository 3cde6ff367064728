"""One small server for all scenarios, with fewer slots than they have adapters."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtests.drive.grpc_target import GrpcTarget
from loadtests.random_house import write_house
from loadtests.scenario.place import Place, free_port
from lorikeet import Client
from lorikeet.local import serving


@pytest.fixture(scope="package")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder, port = tmp_path_factory.mktemp("house"), free_port()
    base, adapter = write_house("tiny", 4, folder)
    flags = ("--threads", "1", "--adapter-slots", "4", "--metrics-port", str(port), "--queue-seconds", "120")
    with serving(base, folder, flags) as server:
        with Client(server.target) as client:
            server.wait_ready(client)
        yield Place(GrpcTarget(server.target), adapter, f"http://127.0.0.1:{port}/metrics", server)


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return write_house("tiny", 4, tmp_path)[1]
