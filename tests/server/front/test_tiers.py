"""Warm, pin, watch, drain: where adapters are, and what is told of it."""

import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from lorikeet.v1 import adapters_pb2 as pb
from lorikeet.v1 import inference_pb2
from server.engine import messages
from server.engine.messages import Pin, Unpin, Warm
from tests.server.front.house import PATIENCE, House, Open, batches, refused
from tests.server.front.packs import CONFIG_NAME, chunks, header, pack, send, upload
from tests.server.front.test_resume import Sender

Code = grpc.StatusCode
State = pb.AdapterState


@pytest.fixture
def stored(house: House) -> pb.AdapterVersion:
    version: pb.AdapterVersion = send(house, upload())
    return version


def watch(house: House, **target: str) -> Iterator[Any]:
    call: Iterator[Any] = house.adapters.Watch(pb.WatchAdapterRequest(**target), timeout=PATIENCE)
    return call


def name(status: pb.AdapterStatus) -> str:
    return State.Name(status.state).removeprefix("ADAPTER_STATE_")


def hold(house: House, adapter_id: str = "acme") -> Any:
    """A request that runs until somebody ends it."""
    house.link.script = lambda request: batches(request, [40], finish="")
    call = house.inference.Generate(
        inference_pb2.GenerateRequest(prompt="x", adapter_id=adapter_id), timeout=PATIENCE
    )
    next(call)
    return call


def test_warm_returns_when_it_is_there(house: House, stored: pb.AdapterVersion) -> None:
    digest = stored.digest
    call = house.adapters.Warm.future(pb.WarmAdapterRequest(adapter_id="acme"), timeout=PATIENCE)
    house.link.wait(lambda: house.link.told == [Warm(digest, "device")])
    house.report(on_host=[digest], resident=[])
    assert not call.done()
    house.report(on_host=[digest], resident=[digest])
    assert call.result().resident
    request = pb.WarmAdapterRequest(adapter_id="acme@1", tier=pb.TIER_HOST)
    assert house.adapters.Warm(request, timeout=PATIENCE).name == "acme", "the device is good enough"


def test_warm_says_why_not(house: House, stored: pb.AdapterVersion) -> None:
    request = pb.WarmAdapterRequest(adapter_id="acme")
    call = house.adapters.Warm.future(request, timeout=PATIENCE)
    house.link.wait(lambda: len(house.link.told) == 1)
    house.report(refusals=[messages.Refused(stored.digest, "it is torn")])
    refusal = refused(call.result)
    assert (refusal.code, refusal.reason) == (Code.FAILED_PRECONDITION, "ADAPTER_UNUSABLE")
    assert "it is torn" in refusal.message
    house.front._tiers._patience = 0.05
    house.report()
    assert refused(lambda: house.adapters.Warm(request)).code is Code.FAILED_PRECONDITION
    absent = pb.WarmAdapterRequest(adapter_id="nobody")
    assert refused(lambda: house.adapters.Warm(absent)).code is Code.NOT_FOUND
    odd = pb.WarmAdapterRequest(adapter_id="acme", tier=7)
    assert refused(lambda: house.adapters.Warm(odd)).fields == ["tier"]


def test_pins_are_told_to_every_engine(house: House, stored: pb.AdapterVersion, open_house: Open) -> None:
    digest = stored.digest
    assert house.adapters.Pin(pb.PinAdapterRequest(adapter_id="acme")).pinned == "device"
    house.link.wait(lambda: house.link.told == [Pin(digest, "device")])
    house.replace_engine()
    house.link.wait(lambda: house.link.told == [Pin(digest, "device")] * 2)
    house.adapters.Pin(pb.PinAdapterRequest(adapter_id="acme", tier=pb.TIER_HOST))
    house.link.wait(lambda: house.link.told[2:] == [Pin(digest, "host")])

    store = house.front._config.adapter_store
    house.loop.run(house.front.stop())
    again = open_house(adapter_store=store)
    again.link.wait(lambda: again.link.told == [Pin(digest, "host")])
    assert again.adapters.Get(pb.GetAdapterRequest(adapter_id="acme")).pinned == "host"
    assert again.adapters.Unpin(pb.UnpinAdapterRequest(adapter_id="acme")).pinned == ""
    again.link.wait(lambda: again.link.told[1:] == [Unpin(digest)])


def test_a_deleted_version_is_no_longer_pinned(house: House, stored: pb.AdapterVersion) -> None:
    house.adapters.Pin(pb.PinAdapterRequest(adapter_id="acme"))
    house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))
    house.link.wait(lambda: house.link.told == [Pin(stored.digest, "device"), Unpin(stored.digest)])


def test_a_tenant_pins_so_many(open_house: Open) -> None:
    house = open_house(max_pinned_adapters=1)
    for each in ("a", "b"):
        send(house, upload(each))
    house.adapters.Pin(pb.PinAdapterRequest(adapter_id="a"))
    refusal = refused(lambda: house.adapters.Pin(pb.PinAdapterRequest(adapter_id="b")))
    assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "QUOTA_EXCEEDED")
    house.adapters.Unpin(pb.UnpinAdapterRequest(adapter_id="a"))
    house.adapters.Pin(pb.PinAdapterRequest(adapter_id="b"))


def states_until(states: Iterator[Any], last: str) -> list[str]:
    """The states passed, each once, up to the last one."""
    seen: list[str] = []
    for status in states:
        if not seen or seen[-1] != name(status):
            seen.append(name(status))
        if seen[-1] == last:
            break
    return seen


def test_states_of_an_upload_and_its_version(house: House) -> None:
    files = pack()
    sender = Sender(house, "u1", files)
    states = watch(house, upload_id="u1")
    assert name(next(states)) == "UPLOADING"
    sender.put(*chunks(files), None)
    assert states_until(states, "STORED") == ["UPLOADING", "CHECKING", "STORED"]
    digest = sender.call.result().digest
    warming = house.adapters.Warm.future(pb.WarmAdapterRequest(adapter_id="acme", tier=pb.TIER_HOST))
    house.link.wait(lambda: house.link.told == [Warm(digest, "host")])
    house.report(on_host=[digest])
    assert states_until(states, "ON_HOST") == ["STORED", "ON_HOST"]
    warming.result()
    house.report(resident=[digest], on_host=[digest])
    call = hold(house)
    assert set(states_until(states, "ON_DEVICE")) <= {"ON_HOST", "ON_DEVICE"}
    house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))
    assert states_until(states, "DRAINING") == ["DRAINING"]
    call.cancel()
    assert [name(status) for status in states] == ["DELETED"]


def test_a_refused_upload_says_why(house: House) -> None:
    files = {**pack(), CONFIG_NAME: b"not json"}
    sender = Sender(house, "u1", files)
    states = watch(house, upload_id="u1")
    next(states)
    sender.put(*chunks(files), None)
    assert refused(sender.call.result).reason == "INVALID_ADAPTER"
    *_, last = states
    assert name(last) == "REJECTED" and "adapter_config.json" in " ".join(last.reasons)
    assert [name(status) for status in watch(house, upload_id="u1")] == ["REJECTED"]


def test_there_must_be_something_to_watch(house: House) -> None:
    assert refused(lambda: watch(house, adapter_id="nobody")).code is Code.NOT_FOUND
    assert refused(lambda: watch(house, upload_id="nobody")).code is Code.NOT_FOUND
    assert refused(lambda: watch(house, upload_id="a/b")).fields == ["upload_id"]
    assert refused(lambda: watch(house)).fields == ["target"]


def test_delete_waits_for_those_who_run(house: House, stored: pb.AdapterVersion) -> None:
    call = hold(house)
    request = pb.DeleteAdapterRequest(adapter_id="acme", wait=Duration(seconds=60))
    deleting = house.adapters.Delete.future(request, timeout=PATIENCE)
    house.loop.until(lambda: not house.front._directory.store._ledger.index.has(stored.digest))
    assert not deleting.done()
    call.cancel()
    assert deleting.result().running == 0


def test_delete_waits_no_longer_than_asked(house: House, stored: pb.AdapterVersion) -> None:
    call = hold(house)
    request = pb.DeleteAdapterRequest(adapter_id="acme", wait=Duration(nanos=10_000_000))
    assert house.adapters.Delete(request, timeout=PATIENCE).running == 1
    call.cancel()


def test_force_ends_those_who_run_on_it_and_no_others(house: House, stored: pb.AdapterVersion) -> None:
    """The same bytes under another name are another version."""
    send(house, upload("twin"))
    calls = [hold(house), hold(house, "twin"), hold(house)]
    request = pb.DeleteAdapterRequest(adapter_id="acme", force=True, wait=Duration(seconds=10))
    assert house.adapters.Delete(request, timeout=PATIENCE).running == 0
    for call in (calls[0], calls[2]):
        refusal = refused(lambda call=call: call)
        assert (refusal.code, refusal.reason) == (Code.ABORTED, "ADAPTER_DELETED")
        assert "acme@1 was deleted by force" in refusal.message
    house.link.wait(lambda: len(house.link.aborted) == 2)
    assert calls[1].is_active()
    calls[1].cancel()


def test_force_ends_every_sample(house: House, stored: pb.AdapterVersion) -> None:
    house.link.script = lambda request: batches(request, [40], finish="")
    sampling = inference_pb2.Sampling(n=3, temperature=1)
    request = inference_pb2.GenerateRequest(prompt="x", adapter_id="acme", sampling=sampling)
    call = house.inference.Generate(request, timeout=PATIENCE)
    assert {next(call).index for _ in range(3)} == {0, 1, 2}
    house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme", force=True))
    assert refused(lambda: call).reason == "ADAPTER_DELETED"
    house.link.wait(lambda: len(house.link.aborted) == 3)


def test_another_base_is_refused_or_marked(house: House) -> None:
    told = {"format": "lorikeet-training-v1", "base_fingerprint": "0" * 64}
    files = {**pack(), "lorikeet_manifest.json": json.dumps(told).encode()}
    refusal = refused(lambda: send(house, [header("odd", files), *chunks(files)]))
    assert refusal.code is Code.INVALID_ARGUMENT and "trained over base 000000000000" in refusal.message
    first = header("odd", files)
    first.header.allow_base_mismatch = True
    version = send(house, [first, *chunks(files)])
    assert version.base_mismatches == ["trained over base 000000000000, served over base ffffffffffff"]
    (listed,) = house.adapters.List(pb.ListAdaptersRequest()).versions
    assert listed == version


def test_cards_come_as_they_were_uploaded(house: House, stored: pb.AdapterVersion) -> None:
    told = '{"format": "lorikeet-training-v1", "seed": 7}'
    files = {**pack(), "README.md": "# É".encode(), "lorikeet_manifest.json": told.encode()}
    send(house, [header("told", files), *chunks(files)])
    card = house.adapters.GetCard(pb.GetAdapterRequest(adapter_id="told"))
    assert (card.readme, card.training_json) == ("# É", told)
    assert card.version.name == "told" and card.version.digest != stored.digest
    plain = house.adapters.GetCard(pb.GetAdapterRequest(adapter_id="acme"))
    assert (plain.readme, plain.training_json) == ("", "")
