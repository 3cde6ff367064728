"""Bytes that changed on disk behind the store's back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters import AdapterNotFound, AdapterVersion, LocalStore, StoreUnavailable
from adapters.entry import entry_key
from tests.adapters.base import load


def ids(versions: list[AdapterVersion]) -> list[str]:
    return [f"{version.name}@{version.version}" for version in versions]


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"tenant": "acme"}', "null"])
def test_a_damaged_document_hides_one_name_only(
    store: LocalStore, builder: Any, reopen: Callable[[], LocalStore], tmp_path: Path, content: str
) -> None:
    for seed in range(2):
        builder.commit(store, "acme", "a", seed=seed)
    other = builder.commit(store, "acme", "b", seed=2)
    record = tmp_path / "store" / "refs" / f"{entry_key('acme', 'a')}.json"
    record.write_text(content)
    again = reopen()
    assert ids(again.list("acme")[0]) == ["b@1"]
    assert again.resolve("acme", "b") == other
    with pytest.raises(StoreUnavailable, match="restore it from a backup"):
        builder.commit(again, "acme", "a", seed=2)
    with pytest.raises(StoreUnavailable, match="restore it from a backup"):
        again.resolve("acme", "a")
    assert record.read_text() == content, "what may still be repaired by hand is not overwritten"


def test_a_record_in_a_foreign_place_is_not_believed(
    store: LocalStore, builder: Any, reopen: Callable[[], LocalStore], tmp_path: Path
) -> None:
    builder.commit(store, "acme", "a")
    (record,) = (tmp_path / "store" / "refs").glob("*.json")
    record.write_text(json.dumps(json.loads(record.read_text()) | {"tenant": "other"}))
    assert reopen().list("other") == ([], "")


def test_damaged_bytes_are_told_and_healed_by_the_same_upload(
    store: LocalStore, builder: Any, reopen: Callable[[], LocalStore]
) -> None:
    version = builder.commit(store, "acme", "a")
    builder.commit(store, "acme", "b", seed=1)
    (store.folder(version.digest) / "manifest.json").write_text("{")
    again = reopen()
    with pytest.raises(StoreUnavailable, match="upload it again"):
        again.resolve("acme", "a")
    assert ids(again.list("acme")[0]) == ["b@1"]
    assert builder.commit(again, "acme", "a") == version == again.resolve("acme", "a")
    (again.folder(version.digest) / "adapter_model.safetensors").write_bytes(b"x")
    assert builder.commit(again, "acme", "a") == version
    assert load(again.folder(version.digest), version.manifest)
    (again.folder(version.digest) / "manifest.json").unlink()
    assert ids(reopen().delete("acme", "b")) == ["b@1"]


def test_a_damaged_version_can_be_deleted(
    store: LocalStore, builder: Any, reopen: Callable[[], LocalStore]
) -> None:
    version = builder.commit(store, "acme", "a")
    (store.folder(version.digest) / "manifest.json").unlink()
    again = reopen()
    assert again.delete("acme", "a") == []
    with pytest.raises(AdapterNotFound):
        again.resolve("acme", "a")
    assert again.collect() == [version.digest]
