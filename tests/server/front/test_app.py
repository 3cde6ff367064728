"""Health, reflection, drain, and the process around them."""

import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from adapters.errors import StoreUnavailable
from lorikeet.v1 import adapters_pb2
from lorikeet.v1 import inference_pb2 as pb
from server.app import Front
from server.config import ServerConfig
from server.listener import SERVICES
from server.text import Text
from tests.server.front.house import PATIENCE, READY, FakeLink, House, Loop, Open, batches, refused, script
from tests.server.front.packs import upload

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def health(house: House, service: str = "") -> Any:
    return house.health.Check(health_pb2.HealthCheckRequest(service=service)).status


def test_health_follows_the_engine(open_house: Open) -> None:
    house = open_house(ready=False)
    assert [health(house, name) for name in ("", *SERVICES)] == [NOT_SERVING] * len(("", *SERVICES))
    watches = [
        house.health.Watch(health_pb2.HealthCheckRequest(service=name), timeout=PATIENCE)
        for name in ("", *SERVICES)
    ]
    for ready, status in ((None, NOT_SERVING), (READY, SERVING), (None, NOT_SERVING), (READY, SERVING)):
        house.link.ready = ready
        assert [next(watch).status for watch in watches] == [status] * len(watches)
    assert refused_code(lambda: health(house, "unknown")) is grpc.StatusCode.NOT_FOUND


def refused_code(call: Any) -> grpc.StatusCode:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code()


def test_reflection_lists_the_services(house: House) -> None:
    database = ProtoReflectionDescriptorDatabase(house.channel)
    assert set(SERVICES) <= set(database.get_services())
    assert database.FindFileContainingSymbol("lorikeet.v1.Inference").name == pb.DESCRIPTOR.name


def test_drain(house: House, loop: Loop) -> None:
    house.link.script = lambda request: batches(request, [40], finish="")
    watch = house.health.Watch(health_pb2.HealthCheckRequest(service=""), timeout=PATIENCE)
    assert next(watch).status == SERVING
    running = house.inference.Generate(pb.GenerateRequest(prompt="x"), timeout=PATIENCE)
    next(running)
    drained = threading.Thread(target=lambda: loop.run(house.front.drain(PATIENCE)))
    drained.start()
    assert next(watch).status == NOT_SERVING
    loop.until(lambda: house.front._uploading._closed)
    for call in (
        lambda: house.generate(),
        lambda: house.adapters.Upload(iter(upload()), timeout=PATIENCE),
    ):
        refusal = refused(call)
        assert (refusal.code, refusal.reason, refusal.retries) == (
            grpc.StatusCode.UNAVAILABLE,
            "NOT_READY",
            True,
        )
    assert house.adapters.List(adapters_pb2.ListAdaptersRequest()) is not None
    assert drained.is_alive(), "what runs may end first"
    running.cancel()
    drained.join(PATIENCE)
    assert not drained.is_alive()


def test_drain_lets_answers_end(house: House, text: Text, loop: Loop) -> None:
    house.link.script = script(text, "hello world")
    call = house.inference.Generate(pb.GenerateRequest(prompt="x"), timeout=PATIENCE)
    house.link.wait(lambda: len(house.link.submitted) == 1)
    loop.run(house.front.drain(PATIENCE))
    assert "".join(message.text for message in call) == "hello world"
    assert house.link.aborted == []


def test_drain_does_not_wait_for_ever(house: House, loop: Loop) -> None:
    call = house.inference.Generate(pb.GenerateRequest(prompt="x"), timeout=PATIENCE)
    house.link.wait(lambda: len(house.link.submitted) == 1)
    loop.run(house.front.drain(0.0))
    assert house.front._generating.num_live == 1
    loop.run(house.front.stop())
    house.link.wait(lambda: len(house.link.aborted) == 1)
    assert refused_code(lambda: list(call)) in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)


def test_an_engine_that_cannot_start(base: Path, tmp_path: Path, loop: Loop) -> None:
    link = FakeLink()
    link.fails = RuntimeError("no such device")
    config = ServerConfig(base=str(base), adapter_store=tmp_path / "store", port=0, metrics_port=-1)
    front = Front(config, lambda config: link)
    loop.run(front.start())
    with pytest.raises(RuntimeError, match="no such device"):
        loop.run(front.wait_ready())
    loop.run(front.stop())


def test_a_taken_port(house: House, base: Path, tmp_path: Path, loop: Loop) -> None:
    config = ServerConfig(
        base=str(base), adapter_store=tmp_path / "other", port=house.front.port, metrics_port=-1
    )
    front = Front(config, lambda config: FakeLink())
    with pytest.raises(RuntimeError, match="Failed to bind"):
        loop.run(front.start())
    loop.run(front.stop())


def test_one_store_has_one_server(house: House) -> None:
    with pytest.raises(StoreUnavailable, match="Another server"):
        Front(house.front._config, lambda config: FakeLink())


def test_only_loopback_by_default(house: House) -> None:
    assert house.front._config.host == "127.0.0.1"
    with pytest.raises(OSError), socket.create_connection(("127.0.0.2", house.front.port), timeout=PATIENCE):
        pass


CHILD = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from pathlib import Path
from server import app
from server.config import ServerConfig
from tests.server.front.house import FakeLink
config = ServerConfig(base=sys.argv[1], adapter_store=Path(sys.argv[2]), port=0, metrics_port=0)
app.run(config, lambda config: FakeLink())
assert "torch" not in sys.modules, "the front imported torch"
assert "uvloop" in sys.modules
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_of_its_own(base: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Comes up without torch, serves, and leaves in peace when told to."""
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", CHILD, str(base), str(tmp_path / "store")],
        cwd=Path(__file__).parents[3],
        stderr=subprocess.PIPE,
        text=True,
    )
    with child:
        assert child.stderr is not None
        lines = []
        for line in child.stderr:
            lines.append(line)
            if line == "ready\n":
                break
        child.send_signal(number)
        rest = child.stderr.read()
        assert child.wait(PATIENCE) == 0, "".join(lines) + rest
    assert "Traceback" not in rest
