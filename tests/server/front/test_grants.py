"""Sharing over the wire: what the other tenant gets, and what it never gets."""

from pathlib import Path
from typing import Any

import grpc
import pytest

from lorikeet import Client, InvalidRequest, NotFound
from server.identity.keys import KeyFile
from server.identity.scopes import SCOPES
from server.text import Text
from tests.server.front.house import House, Open, script
from tests.server.front.packs import pack


@pytest.fixture
def house(open_house: Open, tmp_path: Path, text: Text) -> House:
    KeyFile(tmp_path / "keys.json").create("acme", SCOPES)
    house = open_house(keys=tmp_path / "keys.json")
    house.link.script = script(text, "hello")
    return house


@pytest.fixture
def clients(house: House, tmp_path: Path) -> Any:
    made = {}
    for tenant in ("acme", "rival", "third"):
        _, token = KeyFile(tmp_path / "keys.json").create(tenant, SCOPES)
        made[tenant] = Client(f"127.0.0.1:{house.front.port}", api_key=token.text, timeout=20)
    yield made
    for client in made.values():
        client.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    for name, data in pack().items():
        (folder / name).write_bytes(data)
    return folder


def test_a_grant_lets_use_and_nothing_else(house: House, clients: Any, folder: Path) -> None:
    acme, rival, third = clients.values()
    stored = acme.adapters.upload(folder, "legal")
    with pytest.raises(NotFound):
        rival.generate("x", adapter="acme/legal").text()
    grant = acme.grants.share("legal", "rival")
    assert (grant.adapter, grant.tenant) == ("acme/legal", "rival")
    for reference in ("acme/legal", "acme/legal@1"):
        result = rival.generate("x", adapter=reference).result()
        assert result.adapter_version == "acme/legal@1"
        asked = house.link.submitted[-1]
        assert (asked.tenant, asked.adapter) == ("rival", stored.digest), "its own cache, the owner's bytes"
        assert rival.adapters.get(reference).id == "acme/legal@1"
    assert list(rival.adapters.list()) == []
    assert rival.grants.list() == acme.grants.list() == (grant,)
    assert third.grants.list() == ()
    with pytest.raises(InvalidRequest):
        rival.adapters.delete("acme/legal")
    for stranger, reference in ((third, "legal"), (third, "acme/legal"), (rival, "legal")):
        with pytest.raises(NotFound):
            stranger.generate("x", adapter=reference).text()
    acme.grants.unshare("legal", "rival")
    acme.grants.unshare("legal", "rival")
    with pytest.raises(NotFound):
        rival.generate("x", adapter="acme/legal").text()
    assert acme.generate("x", adapter="acme/legal").text() == "hello"


def test_the_same_bytes_of_two_tenants_tell_neither_of_the_other(
    house: House, clients: Any, folder: Path
) -> None:
    """One adapter in memory, and each tenant sees of it what its own use has brought about."""
    acme, rival, third = clients.values()
    digests = {client.adapters.upload(folder, "mine").digest for client in (acme, rival)}
    acme.grants.share("mine", "third")
    house.report(resident=digests, on_host=digests)
    assert len(digests) == 1
    assert acme.generate("x", adapter="mine").text() == "hello"
    assert acme.adapters.get("mine").resident
    for client, name in ((rival, "mine"), (third, "acme/mine")):
        assert not client.adapters.get(name).resident
    assert not any(version.resident for version in rival.adapters.list())
    assert next(rival.adapters.watch("mine")).state == "stored"
    assert not rival.adapters.upload(folder, "mine").resident
    assert rival.adapters.warm("mine").resident and not third.adapters.get("acme/mine").resident


def test_what_cannot_be_shared(clients: Any, folder: Path) -> None:
    acme = clients["acme"]
    with pytest.raises(NotFound):
        acme.grants.share("legal", "rival")
    acme.adapters.upload(folder, "legal")
    for name, tenant, field in (
        ("legal", "acme", "tenant"),
        ("legal", "No", "tenant"),
        ("legal@1", "rival", "name"),
        ("rival/legal", "third", "name"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            acme.grants.share(name, tenant)
        assert caught.value.violations[0].field == field
    with pytest.raises(NotFound):
        clients["rival"].grants.share("legal", "third")


def test_a_shared_adapter_that_is_gone_and_one_never_shared_are_told_in_the_same_words(
    clients: Any, folder: Path
) -> None:
    acme, rival, third = clients.values()
    acme.adapters.upload(folder, "legal")
    acme.grants.share("legal", "rival")
    acme.adapters.delete("legal")
    told = []
    for client in (rival, third):
        with pytest.raises(NotFound) as caught:
            client.generate("x", adapter="acme/legal").text()
        cause: Any = caught.value.__cause__
        assert cause.code() is grpc.StatusCode.NOT_FOUND
        told.append((str(caught.value), caught.value.resource, caught.value.reason))
    assert told[0] == told[1]
