"""What the services write into the audit log."""

import json
from typing import Any

import grpc
import pytest

from adapters.errors import StoreUnavailable
from lorikeet.v1 import adapters_pb2 as pb
from server.audit import verify
from tests.server.front.house import House, refused
from tests.server.front.packs import send, upload

Code = grpc.StatusCode


def lines(house: House) -> list[dict[str, Any]]:
    folder = house.front._config.audit_folder
    verify(folder)
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.read_text().splitlines()]


def test_every_change_is_written_down_and_no_look(house: House) -> None:
    version = send(house, upload("acme"))
    shares = [pb.AliasShare(version=1, weight=1)]
    house.adapters.SetAlias(
        pb.SetAliasRequest(name="acme", alias="prod", shares=shares), metadata=(("x-request-id", "r1"),)
    )
    house.adapters.Pin(pb.PinAdapterRequest(adapter_id="acme"))
    house.adapters.Unpin(pb.UnpinAdapterRequest(adapter_id="acme"))
    house.adapters.Get(pb.GetAdapterRequest(adapter_id="acme"))
    refused(lambda: house.adapters.RollbackAlias(pb.RollbackAliasRequest(name="acme", alias="prod")))
    refused(lambda: house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme")))
    house.adapters.DeleteAlias(pb.DeleteAliasRequest(name="acme", alias="prod"))
    house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))
    written = lines(house)
    assert [(line["what"], line["name"], line["code"]) for line in written] == [
        ("Upload", "acme@1", "OK"),
        ("SetAlias", "acme@prod", "OK"),
        ("Pin", "acme@1", "OK"),
        ("Unpin", "acme@1", "OK"),
        ("RollbackAlias", "acme@prod", "FAILED_PRECONDITION"),
        ("Delete", "acme", "FAILED_PRECONDITION"),
        ("DeleteAlias", "acme@prod", "OK"),
        ("Delete", "acme", "OK"),
    ]
    assert written[0]["digest"] == version.digest and written[0]["bytes"] == version.size
    assert written[1]["request"] == "r1" and written[1]["shares"] == [[1, 1]]
    assert written[-1]["digests"] == [version.digest]
    assert all(line["tenant"] == "default" and "127.0.0.1" in line["peer"] for line in written)


def test_nothing_is_changed_that_cannot_be_written_down(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(house, upload("acme"))
    log = house.front._journal._log

    def fail(line: bytes) -> None:
        raise StoreUnavailable("The store failed while writing the audit log.")

    monkeypatch.setattr(log, "_append", fail)
    for _ in range(2):
        refusal = refused(lambda: house.adapters.Pin(pb.PinAdapterRequest(adapter_id="acme")))
        assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "STORE_UNAVAILABLE")
        refused(lambda: house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme")))
    assert house.adapters.Get(pb.GetAdapterRequest(adapter_id="acme")).version == 1, "looks go on"
