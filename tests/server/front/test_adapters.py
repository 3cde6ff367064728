"""The Adapters service over the real store and the real sandbox."""

import grpc
import pytest
from google.rpc import error_details_pb2 as details_pb

from adapters.store import AdapterVersion
from lorikeet.v1 import adapters_pb2 as pb
from lorikeet.v1 import inference_pb2
from server.text import Text
from tests.server.front.house import PATIENCE, House, batches, refused, script
from tests.server.front.packs import nothing_stored, pack, send, tensors, upload

Code = grpc.StatusCode


def test_the_life_of_an_adapter(house: House, text: Text) -> None:
    version = send(house, upload("acme"))
    assert (version.name, version.version, version.rank, version.base_model) == ("acme", 1, 2, "tiny/llama")
    assert list(version.targets) == ["q_proj", "v_proj"]
    assert version.num_parameters == sum(tensor.size for tensor in tensors().values())
    assert version.size == sum(map(len, pack().values()))
    assert version.create_time.seconds > 1_700_000_000
    assert not version.resident
    assert send(house, upload("acme")) == version, "the same bytes again are no new version"
    second = send(house, upload("acme", seed=1))
    assert second.version == 2

    assert house.adapters.Get(pb.GetAdapterRequest(adapter_id="acme")) == second
    assert house.adapters.Get(pb.GetAdapterRequest(adapter_id="acme@1")) == version
    assert list(house.adapters.List(pb.ListAdaptersRequest()).versions) == [version, second]

    house.link.script = script(text, "hi")
    for adapter_id, chosen in (("acme", second), ("acme@1", version)):
        request = inference_pb2.GenerateRequest(prompt="x", adapter_id=adapter_id)
        started = next(house.inference.Generate(request)).started
        assert (started.adapter_version, started.adapter_digest) == (f"acme@{chosen.version}", chosen.digest)
        assert house.link.submitted[-1].adapter == chosen.digest

    deleted = house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme@2"))
    assert [each.version for each in deleted.versions] == [2]
    assert house.adapters.Get(pb.GetAdapterRequest(adapter_id="acme")) == version
    assert send(house, upload("acme", seed=1)).version == 3, "version numbers are never used again"
    deleted = house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))
    assert [each.version for each in deleted.versions] == [1, 3]
    gone = refused(lambda: house.adapters.Get(pb.GetAdapterRequest(adapter_id="acme")))
    assert gone.code is Code.NOT_FOUND
    assert gone.detail(details_pb.ResourceInfo).resource_name == "acme"
    assert (
        refused(lambda: house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))).code
        is Code.NOT_FOUND
    )


def test_pages(house: House) -> None:
    for name in ("b", "a", "c"):
        send(house, upload(name))
    seen, token = [], ""
    while True:
        page = house.adapters.List(pb.ListAdaptersRequest(page_size=2, page_token=token))
        assert len(page.versions) <= 2
        seen += [version.name for version in page.versions]
        if not (token := page.next_page_token):
            break
    assert seen == ["a", "b", "c"]


@pytest.mark.parametrize("token", ["x", "../../x", "YUAx"])
def test_page_tokens_of_others(house: House, token: str) -> None:
    call = lambda: house.adapters.List(pb.ListAdaptersRequest(page_token=token))  # noqa: E731
    if token == "YUAx":
        assert not call().versions
        return
    refusal = refused(call)
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["page_token"])


@pytest.mark.parametrize(
    "name", ["", "..", "../x", "a/b/c", "A", "a" * 129, ".hidden", "a@1", "a\n", "a\x00b", "é"]
)
def test_names_are_no_paths(house: House, name: str) -> None:
    refusal = refused(lambda: send(house, upload(name)))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["header.name"])
    for method, request in (
        (house.adapters.Get, pb.GetAdapterRequest),
        (house.adapters.Delete, pb.DeleteAdapterRequest),
    ):
        if name != "a@1":
            refusal = refused(lambda method=method, request=request: method(request(adapter_id=name)))
            assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, ["adapter_id"])
    assert nothing_stored(house)


def test_a_store_that_cannot_write(house: House) -> None:
    # Not a read-only folder: the superuser, who may run this, writes to those.
    staging = house.front._config.adapter_store / "staging"
    staging.rmdir()
    staging.write_bytes(b"")
    refusal = refused(lambda: send(house, upload()))
    assert (refusal.code, refusal.reason, refusal.retries) == (Code.UNAVAILABLE, "STORE_UNAVAILABLE", True)


def test_a_deleted_adapter_stays_for_those_who_use_it(house: House, text: Text) -> None:
    digest = send(house, upload()).digest
    folder = house.front._directory.store.folder(digest)
    house.link.script = lambda request: batches(request, [40], finish="")
    request = inference_pb2.GenerateRequest(prompt="x", adapter_id="acme")
    calls = [house.inference.Generate(request) for _ in range(2)]
    for call in calls:
        next(call)
    house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))
    assert refused(lambda: house.inference.Generate(request)).code is Code.NOT_FOUND
    settle(house)
    assert folder.exists()
    calls[0].cancel()
    house.link.wait(lambda: len(house.link.aborted) == 1)
    house.loop.until(lambda: house.front._generating.num_live == 1)
    settle(house)
    assert folder.exists()
    calls[1].cancel()
    house.loop.run(house.front._generating.wait_idle())
    settle(house)
    assert not folder.exists()
    assert not house.front._directory.holds._held and not house.front._directory.holds._digests


def test_bytes_of_a_deleted_adapter_go_at_once(house: House) -> None:
    digest = send(house, upload()).digest
    folder = house.front._directory.store.folder(digest)
    assert folder.exists()
    house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))
    settle(house)
    assert not folder.exists()


def settle(house: House) -> None:
    """Until the janitor has nothing left to do."""
    house.front._directory._janitor.submit(lambda: None).result(PATIENCE)


def test_a_delete_between_the_looks(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version found, deleted and collected before it could be held is not answered with."""
    send(house, upload())
    store = house.front._directory.store
    resolve = store.resolve

    def late(tenant: str, reference: str, key: str | None = None) -> AdapterVersion:
        version = resolve(tenant, reference, key)
        monkeypatch.undo()
        house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))
        settle(house)
        return version

    monkeypatch.setattr(store, "resolve", late)
    request = inference_pb2.GenerateRequest(prompt="x", adapter_id="acme")
    assert refused(lambda: house.inference.Generate(request)).code is Code.NOT_FOUND
    assert house.link.submitted == []
    assert not house.front._directory.holds._held
