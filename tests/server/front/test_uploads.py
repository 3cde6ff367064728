"""Uploads that are refused, and that nothing of them stays."""

import queue
import threading
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2 as details_pb
from safetensors.numpy import save

from adapters.errors import StoreUnavailable
from adapters.manifest import Manifest
from adapters.staging import Staging
from lorikeet.v1 import adapters_pb2 as pb
from server.app import MAX_UPLOADS
from tests.server.front.house import PATIENCE, House, Open, refused
from tests.server.front.packs import (
    CONFIG_NAME,
    WEIGHTS_NAME,
    chunk,
    chunks,
    config,
    header,
    nothing_stored,
    pack,
    send,
    tensors,
    upload,
)

Code = grpc.StatusCode


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
        ([header("a", GOOD), chunk("../x", 0, b"x")], "files"),
        ([header("a", GOOD), chunk("evil.py", 0, b"x")], "files"),
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
        ({**GOOD, CONFIG_NAME: config(r=64)}, "from 1 to 16"),
        ({**GOOD, CONFIG_NAME: config(peft_type="OFT")}, "OFT"),
        ({**GOOD, CONFIG_NAME: config(target_modules=["nothing"])}, "target"),
        (broken(**{Q_A: np.full((2, 16), np.nan, np.float32)}), "NaN"),
        (broken(**{Q_A: np.zeros((2, 32), np.float32)}), "shape"),
        (broken(stranger=np.zeros((2, 2), np.float32)), "stranger"),
    ],
)
def test_adapters_that_the_base_cannot_serve(house: House, files: dict[str, bytes], says: str) -> None:
    refusal = refused(lambda: send(house, [header("a", files), *chunks(files)]))
    assert (refusal.code, refusal.reason) == (Code.INVALID_ARGUMENT, "INVALID_ADAPTER")
    told = " ".join(
        violation.description for violation in refusal.detail(details_pb.BadRequest).field_violations
    )
    assert says in told
    assert nothing_stored(house)


class Held:
    """Syncs of uploads, which wait until they are let go, and may then fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()
        sync = Staging.sync

        def held(staging: Staging) -> None:
            self.begun.set()
            assert self.may_end.wait(PATIENCE)
            if error is not None:
                raise error
            sync(staging)

        monkeypatch.setattr(Staging, "sync", held)


def test_it_is_checked_while_it_is_synced_and_visible_after_both(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs, prepared = Held(monkeypatch), threading.Event()
    prepare = house.link.prepare

    async def prepare_and_tell(folder: Path, manifest: Manifest) -> Manifest:
        prepared.set()
        return await prepare(folder, manifest)

    monkeypatch.setattr(house.link, "prepare", prepare_and_tell)
    call = house.adapters.Upload.future(iter(upload("synced")), timeout=PATIENCE)
    assert prepared.wait(PATIENCE) and syncs.begun.is_set()
    assert not house.adapters.List(pb.ListAdaptersRequest()).versions and not call.done()
    syncs.may_end.set()
    assert call.result().name == "synced"


def test_a_sync_that_fails_stores_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = Held(monkeypatch, StoreUnavailable("The store failed while syncing an upload; retry."))
    syncs.may_end.set()
    refusal = refused(lambda: send(house, upload("unsynced")))
    assert (refusal.code, refusal.reason) == (Code.UNAVAILABLE, "STORE_UNAVAILABLE")
    assert nothing_stored(house)


def test_what_is_refused_while_it_is_synced_is_gone_after_that(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs, files = Held(monkeypatch), {**GOOD, CONFIG_NAME: config(r=64)}
    call = house.adapters.Upload.future(iter([header("a", files), *chunks(files)]), timeout=PATIENCE)
    assert syncs.begun.wait(PATIENCE)
    syncs.may_end.set()
    assert refused(call.result).reason == "INVALID_ADAPTER"
    assert nothing_stored(house)


def test_every_problem_at_once_fits_the_trailers(house: House) -> None:
    files = {
        **GOOD,
        WEIGHTS_NAME: save({f"stranger{'x' * 200}{i}": np.zeros(1, np.float32) for i in range(40)}),
    }
    refusal = refused(lambda: send(house, [header("a", files), *chunks(files)]))
    assert refusal.reason == "INVALID_ADAPTER"
    assert len(refusal.fields) == 20


def test_uploads_at_once_are_bounded(house: House) -> None:
    more: list[queue.Queue[Any]] = [queue.Queue() for _ in range(MAX_UPLOADS)]
    calls = [house.adapters.Upload.future(iter(each.get, None), timeout=PATIENCE) for each in more]
    house.loop.until(lambda: house.front._uploading.num_live == MAX_UPLOADS)
    refusal = refused(lambda: send(house, upload()))
    assert (refusal.code, refusal.reason, refusal.retries) == (Code.RESOURCE_EXHAUSTED, "QUEUE_FULL", True)
    for each, call in zip(more, calls, strict=True):
        each.put(None)
        assert refused(call.result).fields == ["header"]
