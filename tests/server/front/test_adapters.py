"""The Adapters service over the real store and the real sandbox."""

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest
from google.rpc import error_details_pb2 as details_pb
from safetensors.numpy import save

from lorikeet.v1 import adapters_pb2 as pb
from lorikeet.v1 import inference_pb2
from server.text import Text
from tests.server.front.house import PATIENCE, STATS, House, Open, batches, refused, script
from tests.server.front.packs import CONFIG_NAME, WEIGHTS_NAME, chunk, chunks, config, header, pack, tensors, upload

Code = grpc.StatusCode


def send(house: House, messages: Any) -> Any:
    return house.adapters.Upload(iter(messages), timeout=PATIENCE)


def staged(house: House) -> list[Path]:
    return list((house.front._config.adapter_store / "staging").iterdir())


def nothing_stored(house: House) -> bool:
    return not house.adapters.List(pb.ListAdaptersRequest()).versions and not staged(house)


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

    house.link.stats = msgspec.structs.replace(STATS, resident=[second.digest])
    second.resident = True
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
    assert refused(lambda: house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))).code is Code.NOT_FOUND


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


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "A", "a" * 129, ".hidden", "a@1", "a\n", "a\x00b", "é"])
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


GOOD = pack()
PICKLE = b"\x80\x04\x95" + b"\x00" * 40 + b"."


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([], "header"),
        ([chunk(CONFIG_NAME, 0, b"{}")], "header"),
        ([pb.UploadRequest()], "header"),
        ([header("a", {f"f{i}": b"x" for i in range(17)})], "header.files"),
        ([header("a", {CONFIG_NAME: b"{}"})], "files"),
        ([header("a", {**GOOD, "evil.py": b"x"})], "files"),
        ([header("a", {"../../x": b"x", CONFIG_NAME: b"{}"})], "files"),
        ([header("a", {CONFIG_NAME: b"{}", "adapter_model.bin": PICKLE})], "files"),
        ([header("a", GOOD, size=0)], "files"),
        ([header("a", GOOD, sha256=b"short")], "files"),
        ([header("a", GOOD), header("a", GOOD)], "chunk"),
        ([header("a", GOOD), pb.UploadRequest()], "chunk"),
        ([header("a", GOOD), chunk(CONFIG_NAME, 0, b"x" * (1 << 20) + b"x")], "chunk.data"),
        ([header("a", GOOD), chunk(CONFIG_NAME, 1, b"x")], "files"),
        ([header("a", GOOD), chunk("../x", 0, b"x")], "files"),
        ([header("a", GOOD), chunk("evil.py", 0, b"x")], "files"),
        ([header("a", GOOD), *list(chunks(GOOD))[:-1]], "files"),
        ([header("a", GOOD), *chunks(GOOD), chunk(WEIGHTS_NAME, len(GOOD[WEIGHTS_NAME]), b"x")], "files"),
        ([header("a", GOOD), chunk(CONFIG_NAME, 0, b"x" * 1000)], "files"),
    ],
)  # fmt: skip
def test_uploads_that_break_the_contract(house: House, messages: Any, field: str) -> None:
    refusal = refused(lambda: send(house, messages))
    assert (refusal.code, refusal.fields) == (Code.INVALID_ARGUMENT, [field])
    assert nothing_stored(house)


def test_wrong_sha256(house: House) -> None:
    refusal = refused(lambda: send(house, [header("a", GOOD, sha256=b"\0" * 32), *chunks(GOOD)]))
    assert (refusal.code, refusal.reason) == (Code.DATA_LOSS, "CHECKSUM_MISMATCH")
    assert nothing_stored(house)


def test_too_large(open_house: Open) -> None:
    house = open_house(max_adapter_bytes=1000)
    refusal = refused(lambda: send(house, upload()))
    assert (refusal.code, refusal.reason) == (Code.RESOURCE_EXHAUSTED, "UPLOAD_TOO_LARGE")
    assert refusal.detail(details_pb.QuotaFailure).violations
    assert nothing_stored(house)


def broken(**arrays: Any) -> dict[str, bytes]:
    return {**GOOD, WEIGHTS_NAME: save({**tensors(), **arrays})}


Q_A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({**GOOD, WEIGHTS_NAME: PICKLE}, "safetensors"),
        ({**GOOD, CONFIG_NAME: b"not json"}, "adapter_config.json"),
        ({**GOOD, CONFIG_NAME: config(r=64)}, "rank"),
        ({**GOOD, CONFIG_NAME: config(peft_type="LOHA")}, "LOHA"),
        ({**GOOD, CONFIG_NAME: config(target_modules=["nothing"])}, "target"),
        (broken(**{Q_A: np.full((2, 16), np.nan, np.float32)}), "NaN"),
        (broken(**{Q_A: np.zeros((2, 32), np.float32)}), "shape"),
        (broken(stranger=np.zeros((2, 2), np.float32)), "stranger"),
    ],
)
def test_adapters_that_the_base_cannot_serve(house: House, files: dict[str, bytes], says: str) -> None:
    refusal = refused(lambda: send(house, [header("a", files), *chunks(files)]))
    assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "INVALID_ADAPTER")
    told = " ".join(violation.description for violation in refusal.detail(details_pb.BadRequest).field_violations)
    assert says in told
    assert nothing_stored(house)


def test_every_problem_at_once_fits_the_trailers(house: House) -> None:
    files = {**GOOD, WEIGHTS_NAME: save({f"stranger{'x' * 200}{i}": np.zeros(1, np.float32) for i in range(40)})}
    refusal = refused(lambda: send(house, [header("a", files), *chunks(files)]))
    assert refusal.reason == "INVALID_ADAPTER"
    assert len(refusal.fields) == 20


def test_hanging_up_mid_upload_leaves_nothing(house: House) -> None:
    more: queue.Queue[Any] = queue.Queue()
    for message in [header("a", GOOD), *list(chunks(GOOD))[:1]]:
        more.put(message)
    call = house.adapters.Upload.future(iter(more.get, None), timeout=PATIENCE)
    uploading = house.front._uploading
    house.loop.run(_until(lambda: uploading.num_live == 1))
    call.cancel()
    more.put(None)
    house.loop.run(uploading.wait_idle())
    assert nothing_stored(house)


def test_a_sender_who_falls_silent(house: House) -> None:
    house.front._adapters._patience = 0.1
    more: queue.Queue[Any] = queue.Queue()
    more.put(header("a", GOOD))
    refusal = refused(lambda: send(house, iter(more.get, None)))
    assert (refusal.code, refusal.reason) == (Code.DEADLINE_EXCEEDED, "SLOW_SENDER")
    more.put(None)
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
    folder = house.front._directory._store.folder(digest)
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
    house.loop.run(_until(lambda: house.front._generating.num_live == 1))
    settle(house)
    assert folder.exists()
    calls[1].cancel()
    house.loop.run(house.front._generating.wait_idle())
    settle(house)
    assert not folder.exists()
    assert not house.front._directory._holds and not house.front._directory._doomed


def test_bytes_of_a_deleted_adapter_go_at_once(house: House) -> None:
    digest = send(house, upload()).digest
    folder = house.front._directory._store.folder(digest)
    assert folder.exists()
    house.adapters.Delete(pb.DeleteAdapterRequest(adapter_id="acme"))
    settle(house)
    assert not folder.exists()


def settle(house: House) -> None:
    """Until the janitor has nothing left to do."""
    house.front._directory._janitor.submit(lambda: None).result(PATIENCE)


async def _until(holds: Any) -> None:
    import asyncio

    while not holds():
        await asyncio.sleep(0)


def test_uploads_at_once_are_bounded(house: House) -> None:
    more: list[queue.Queue[Any]] = [queue.Queue() for _ in range(8)]
    calls = [house.adapters.Upload.future(iter(each.get, None), timeout=PATIENCE) for each in more]
    house.loop.run(_until(lambda: house.front._uploading.num_live == 8))
    refusal = refused(lambda: send(house, upload()))
    assert (refusal.code, refusal.reason, refusal.retries) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", True)
    for each, call in zip(more, calls, strict=True):
        each.put(None)
        assert refused(call.result).fields == ["header"]


