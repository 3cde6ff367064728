"""Ends, failures and faults of single sequences."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from server.engine.build import build_engine
from server.engine.config import EngineConfig
from server.engine.reader import AdapterReader
from server.engine.runner import Launched, TorchRunner
from server.engine.sequence import Chosen
from server.model.adapter import AdapterBlob, Allocate
from tests.toys import Driven, drive, make_adapter, store_adapter

PROMPT = [5, 6, 7, 8]
POISON = 300


def test_stop_tokens_end_the_answer_and_minimum_length_holds_them_off(zoo: Any) -> None:
    driven = drive(zoo.base, zoo.store)
    (free,) = driven.answers(driven.submit(PROMPT, max_new_tokens=20))
    stop = free[4]
    first = free.index(stop)
    stopped = driven.submit(PROMPT, max_new_tokens=20, stop_token_ids=(stop,))
    held = driven.submit(PROMPT, max_new_tokens=20, stop_token_ids=(stop,), min_new_tokens=20)
    driven.drain()
    assert [t.token for t in driven.tokens[stopped]] == free[: first + 1]
    assert driven.tokens[stopped][-1].finish == "stop"
    assert len(driven.tokens[held]) == 20
    assert stop not in [t.token for t in driven.tokens[held]]
    assert driven.tokens[held][-1].finish == "length"


def test_only_the_last_token_finishes_and_only_the_first_says_started(zoo: Any) -> None:
    driven = drive(zoo.base, zoo.store)
    asked = driven.submit(PROMPT, max_new_tokens=5)
    driven.drain()
    assert [t.finish for t in driven.tokens[asked]] == ["", "", "", "", "length"]
    assert [t.started is not None for t in driven.tokens[asked]] == [True, False, False, False, False]


def test_an_adapter_that_is_not_there_fails_its_own_requests(zoo: Any) -> None:
    driven = drive(zoo.base, zoo.store)
    lost, kept = driven.submit(PROMPT, adapter="0" * 64), driven.submit(PROMPT)
    (answer,) = driven.answers(kept)
    assert len(answer) == 12
    assert driven.failures[lost].reason == "adapter"
    assert driven.tokens[lost] == []


def test_an_adapter_whose_bytes_changed_on_disk_is_never_served(zoo: Any, tmp_path: Path) -> None:
    folder = make_adapter(zoo.base, tmp_path / "adapter", seed=50, r=2)
    digest = store_adapter(tmp_path / "store", zoo.base, folder, "victim")
    file = tmp_path / "store" / "blobs" / digest[:2] / digest / "adapter_model.safetensors"
    file.chmod(0o600)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    driven = drive(zoo.base, tmp_path / "store")
    asked = driven.submit(PROMPT, adapter=digest)
    driven.drain()
    assert driven.failures[asked].reason == "adapter"
    assert "changed on disk" in driven.failures[asked].message


def test_what_was_prepared_and_changed_on_disk_is_never_served(zoo: Any, tmp_path: Path) -> None:
    folder = make_adapter(zoo.base, tmp_path / "adapter", seed=51, r=2, use_dora=True)
    digest = store_adapter(tmp_path / "store", zoo.base, folder, "victim")
    first = drive(zoo.base, tmp_path / "store")
    assert len(first.answers(first.submit(PROMPT, digest))[0]) == 12
    prepared = tmp_path / "store" / "blobs" / digest[:2] / digest / "prepared"
    for file in (*prepared.glob("*.safetensors"), *prepared.glob("*.packed")):
        content = bytearray(file.read_bytes())
        content[-3] ^= 1
        file.write_bytes(content)
    driven = drive(zoo.base, tmp_path / "store")
    asked = driven.submit(PROMPT, digest)
    driven.drain()
    assert driven.failures[asked].reason == "adapter"
    assert "changed on disk" in driven.failures[asked].message


def test_what_was_packed_and_changed_on_disk_is_packed_again(zoo: Any, tmp_path: Path) -> None:
    folder = make_adapter(zoo.base, tmp_path / "adapter", seed=54, r=2)
    digest = store_adapter(tmp_path / "store", zoo.base, folder, "healed")
    prepared = tmp_path / "store" / "blobs" / digest[:2] / digest / "prepared"
    found = []
    for _ in range(3):
        driven = drive(zoo.base, tmp_path / "store")
        answer = driven.answers(driven.submit(PROMPT, digest))[0]
        (file,) = prepared.iterdir()
        content = file.read_bytes()
        found.append((answer, content))
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("poison", [1e25, 3e38])
def test_a_poisoned_adapter_fails_alone_and_its_neighbours_keep_their_tokens(
    zoo: Any, monkeypatch: pytest.MonkeyPatch, poison: float
) -> None:
    """Finite weights that overflow in the forward pass: beside decodes and prompts, and blocks after them."""
    read = AdapterReader.__call__
    target = zoo.digests["rank4"]

    def read_poisoned(self: AdapterReader, digest: str, allocate: Allocate) -> AdapterBlob:
        blob = read(self, digest, allocate)
        return replace(blob, flat=torch.full_like(blob.flat, poison)) if digest == target else blob

    monkeypatch.setattr(AdapterReader, "__call__", read_poisoned)
    driven = drive(zoo.base, zoo.store, cache_tokens=640, prefix_cache=False)
    healthy = ["", zoo.digests["rank8-rs"], zoo.digests["layer1-only"]]
    clean = driven.answers(*[driven.submit(PROMPT * (i + 1), a) for i, a in enumerate(healthy)])
    for _ in range(3):
        victim = driven.submit(PROMPT, target)
        neighbours = [driven.submit(PROMPT * (i + 1), a, tenant=str(i)) for i, a in enumerate(healthy)]
        assert driven.answers(*neighbours) == clean
        assert driven.failures[victim].reason == "numeric"
        assert driven.tokens[victim] == []


# What uploads may hold, and float16 may not.
@pytest.mark.parametrize(("factor", "large"), [("lora_A", 3e6), ("lora_B", 2e5)])
def test_weights_that_overflow_the_servers_dtype_are_refused(
    zoo: Any, tmp_path: Path, factor: str, large: float
) -> None:
    folder = make_adapter(zoo.base, tmp_path / "adapter", seed=52, r=2)
    file = folder / "adapter_model.safetensors"
    save_file({k: v * (large if factor in k else 1e-3) for k, v in load_file(file).items()}, file)
    digest = store_adapter(tmp_path / "store", zoo.base, folder, "large")
    driven = drive(zoo.base, tmp_path / "store", dtype="float16")
    asked = driven.submit(PROMPT, digest)
    driven.drain()
    assert "overflows torch.float16" in driven.failures[asked].message


def test_a_scale_that_was_changed_in_the_manifest_is_never_served(zoo: Any, tmp_path: Path) -> None:
    folder = make_adapter(zoo.base, tmp_path / "adapter", seed=53, r=2)
    digest = store_adapter(tmp_path / "store", zoo.base, folder, "victim")
    file = tmp_path / "store" / "blobs" / digest[:2] / digest / "manifest.json"
    manifest = json.loads(file.read_text())
    first = next(iter(manifest["targets"].values()))
    first[1] *= 2
    file.chmod(0o600)
    file.write_text(json.dumps(manifest))
    driven = drive(zoo.base, tmp_path / "store")
    asked = driven.submit(PROMPT, digest)
    driven.drain()
    assert "manifest was changed" in driven.failures[asked].message


def test_an_adapter_of_another_base_is_never_served(zoo: Any, bases: dict[str, Path]) -> None:
    driven = drive(bases["qwen3"], zoo.store)
    asked = driven.submit(PROMPT, zoo.digests["rank4"])
    driven.drain()
    assert driven.failures[asked].reason == "adapter"


@pytest.mark.parametrize("overlap", ["off", "on"])
def test_a_sequence_that_makes_the_step_raise_fails_alone(
    zoo: Any, monkeypatch: pytest.MonkeyPatch, overlap: str
) -> None:
    driven = drive(zoo.base, zoo.store, overlap=overlap)
    (expected,) = driven.answers(driven.submit(PROMPT))
    launch = TorchRunner.launch

    def raise_for_poison(self: TorchRunner, chosen: list[Chosen]) -> Launched:
        if any(c.sequence.tokens[0] == POISON for c in chosen):
            raise ZeroDivisionError
        return launch(self, chosen)

    monkeypatch.setattr(TorchRunner, "launch", raise_for_poison)
    fine = [driven.submit(PROMPT, tenant=str(i)) for i in range(2)]
    driven.step()
    victim = driven.submit([POISON, *PROMPT])
    fine.append(driven.submit(PROMPT, tenant="2"))
    assert driven.answers(*fine) == [expected] * 3
    assert driven.failures[victim].reason == "internal"


@pytest.mark.parametrize("mistaken", ["slot", "generation"])
def test_a_sequence_in_another_adapters_slot_stops_the_engine(zoo: Any, mistaken: str) -> None:
    driven = drive(zoo.base, zoo.store)
    for digest in ("rank4", "rank8-rs"):
        driven.submit(PROMPT, zoo.digests[digest], max_new_tokens=50)
    scheduler = driven.engine._scheduler
    while len(scheduler.running) < 2:
        driven.step()
    first, second = scheduler.running
    setattr(first, mistaken, getattr(second, mistaken))
    with pytest.raises(AssertionError, match="slots that are not their adapters'"):
        driven.step()


def test_what_cannot_ever_fit_fails_at_once(zoo: Any) -> None:
    driven = drive(zoo.base, zoo.store, cache_tokens=64)
    too_long, fits = driven.submit(PROMPT * 4, max_new_tokens=60), driven.submit(PROMPT, max_new_tokens=60)
    assert len(driven.answers(fits)[0]) == 60
    assert "do not fit the cache" in driven.failures[too_long].message


def assert_served_in_a_flood(driven: Driven, waiting: int, adapter: str) -> None:
    """The four tokens come although another tenant's requests, overlapping, never end."""
    for number in range(400):
        if number % 8 == 0:
            driven.submit(PROMPT, adapter, tenant="flood", max_new_tokens=20)
        driven.step()
        if len(driven.tokens[waiting]) == 4:
            break
    assert len(driven.tokens[waiting]) == 4


def test_a_cold_adapter_gets_its_turn_while_hot_ones_keep_coming(zoo: Any) -> None:
    """One slot, and the hot tenant's requests overlap so that the slot is never idle by itself."""
    driven = drive(zoo.base, zoo.store, adapter_slots=1, drain_after=0.0)
    hot, cold = zoo.digests["rank4"], zoo.digests["rank8-rs"]
    driven.submit(PROMPT, hot, tenant="flood", max_new_tokens=20)
    for _ in range(5):
        driven.step()
    waiting = driven.submit(PROMPT, cold, tenant="cold", max_new_tokens=4)
    host = driven.engine._scheduler.slots.host
    while cold not in host:
        driven.submit(PROMPT, hot, tenant="flood", max_new_tokens=1)
        driven.step()
    assert_served_in_a_flood(driven, waiting, hot)


def test_a_long_prompt_gets_its_turn_beside_a_stream_of_short_ones(zoo: Any) -> None:
    driven = drive(zoo.base, zoo.store, cache_tokens=64)
    driven.submit(PROMPT, tenant="flood", max_new_tokens=20)
    driven.step()
    waiting = driven.submit(PROMPT * 12, tenant="long", max_new_tokens=4)
    assert_served_in_a_flood(driven, waiting, "")


def test_aborted_requests_leave_no_more_in_host_memory_than_the_cache_may_hold(zoo: Any) -> None:
    driven = drive(zoo.base, zoo.store, host_cache_bytes=1)
    for _ in range(3):
        for digest in list(zoo.digests.values())[1:]:
            driven.abort(driven.submit(PROMPT, digest))
        driven.drain()
    host = driven.engine._scheduler.slots.host
    while host._loading:
        driven.step()
    assert len(host._kept) <= 1


def test_the_cache_is_sized_from_memory_when_nothing_is_said(zoo: Any) -> None:
    _, ready = build_engine(EngineConfig(base=str(zoo.base), threads=1, max_running=4))
    assert ready.num_blocks * ready.block_size == 4 * 256
    assert ready.max_context == 256
