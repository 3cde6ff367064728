from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from adapters import (
    AdapterNotFound,
    AdapterVersion,
    InvalidName,
    LocalStore,
    StoreUnavailable,
    UploadRejected,
)
from adapters.entry import Entry, entry_key
from tests.adapters.base import load


def ids(versions: list[AdapterVersion]) -> list[str]:
    return [f"{version.name}@{version.version}" for version in versions]


def test_commit_resolve_get_load(store: LocalStore, builder: Any) -> None:
    first = builder.commit(store, "acme", "support", seed=1)
    second = builder.commit(store, "acme", "support", seed=2)
    assert (first.version, second.version) == (1, 2)
    assert store.resolve("acme", "support") == second
    assert store.resolve("acme", "support@1") == store.get("acme", "support", 1) == first
    assert set(load(store.folder(first.digest), first.manifest)) == set(first.manifest.targets)


def test_nothing_answers_for_others(store: LocalStore, builder: Any) -> None:
    builder.commit(store, "acme", "support")
    for tenant, reference in (("other", "support"), ("acme", "suppor"), ("acme", "support@2")):
        with pytest.raises(AdapterNotFound):
            store.resolve(tenant, reference)
        with pytest.raises(AdapterNotFound):
            store.delete(tenant, reference)
    assert store.list("other") == ([], "")
    for tenant, reference in (("../acme", "support"), ("acme", "../support"), ("acme", "support@0")):
        with pytest.raises(InvalidName):
            store.resolve(tenant, reference)


def test_the_same_bytes_again_are_no_new_version(store: LocalStore, builder: Any) -> None:
    first = builder.commit(store, "acme", "a", seed=1)
    assert builder.commit(store, "acme", "a", seed=1) == first
    builder.commit(store, "acme", "a", seed=2)
    third = builder.commit(store, "acme", "a", seed=1)
    assert (third.version, third.digest) == (3, first.digest)
    other = builder.commit(store, "other", "a", seed=1)
    assert (other.version, other.digest) == (1, first.digest)


def test_only_a_sealed_and_checked_upload_is_committed(
    store: LocalStore, builder: Any, tmp_path: Path
) -> None:
    one, two = builder.folder(seed=1), builder.folder(seed=2)
    with builder.stage(store, one) as staging, pytest.raises(UploadRejected):
        store.commit(staging, "acme", "a", builder.manifest(two))
    with store.stage(builder.specs(one), 1 << 20) as staging, pytest.raises(UploadRejected):
        store.commit(staging, "acme", "a", builder.manifest(one))
    with builder.stage(store, one) as staging, pytest.raises(InvalidName):
        store.commit(staging, "acme", "A", builder.manifest(one))
    assert store.list("acme") == ([], "")
    assert os.listdir(tmp_path / "store" / "staging") == []


def test_names_are_no_paths(store: LocalStore, builder: Any, tmp_path: Path) -> None:
    builder.commit(store, "acme", "support")
    paths = [str(path) for path in (tmp_path / "store").rglob("*")]
    assert paths
    assert not [path for path in paths if "acme" in path or "support" in path]


def test_pages(store: LocalStore, builder: Any) -> None:
    for seed, name in enumerate(["b", "a", "b", "a.c", "a-c", "b"]):
        builder.commit(store, "acme", name, seed=seed)
    builder.commit(store, "other", "x")
    everything = ["a@1", "a-c@1", "a.c@1", "b@1", "b@2", "b@3"]
    assert ids(store.list("acme")[0]) == everything
    for size in range(1, 8):
        found, token = store.list("acme", page_size=size)
        while token:
            page, token = store.list("acme", size, token)
            assert 0 < len(page) <= size
            found += page
        assert ids(found) == everything


@pytest.mark.parametrize("token", ["x", "!!", "YQ=", "\u00e9", "\ud800", "QQ==", "Li4v"])
def test_foreign_page_tokens(store: LocalStore, token: str) -> None:
    with pytest.raises(InvalidName, match="page token"):
        store.list("acme", page_token=token)


def test_delete_and_collect(store: LocalStore, builder: Any) -> None:
    one, two, three = (builder.commit(store, "acme", "a", seed=seed) for seed in range(3))
    shared = builder.commit(store, "acme", "b", seed=1)
    assert store.delete("acme", "a@3") == [three]
    assert store.resolve("acme", "a") == two
    assert store.delete("acme", "a") == [one, two]
    with pytest.raises(AdapterNotFound):
        store.resolve("acme", "a")
    assert store.collect({one.digest}.__contains__) == [three.digest]
    assert not store.folder(three.digest).exists()
    assert load(store.folder(one.digest), one.manifest)
    assert load(store.folder(shared.digest), shared.manifest)
    assert store.collect() == [one.digest]
    assert store.collect() == []


def test_version_numbers_are_never_used_again(
    store: LocalStore, builder: Any, reopen: Callable[[], LocalStore]
) -> None:
    builder.commit(store, "acme", "a", seed=1)
    builder.commit(store, "acme", "a", seed=2)
    store.delete("acme", "a")
    assert builder.commit(store, "acme", "a", seed=1).version == 3
    store.delete("acme", "a")
    assert builder.commit(reopen(), "acme", "a", seed=1).version == 4


def test_a_restart_keeps_the_set(store: LocalStore, builder: Any, reopen: Callable[[], LocalStore]) -> None:
    for seed in range(4):
        builder.commit(store, "acme", "ab"[seed % 2], seed=seed)
    store.delete("acme", "a@1")
    before = store.list("acme")
    assert ids(before[0]) == ["a@2", "b@1", "b@2"]
    assert reopen().list("acme") == before


def test_a_start_sweeps_what_was_half_done(
    store: LocalStore, builder: Any, reopen: Callable[[], LocalStore], tmp_path: Path
) -> None:
    builder.commit(store, "acme", "a")
    root = tmp_path / "store"
    (record,) = (root / "refs").iterdir()
    (record.parent / "half.tmp").write_text("{")
    (root / "trash" / "gone").mkdir()
    (root / "staging" / "half").mkdir()
    again = reopen()
    assert ids(again.list("acme")[0]) == ["a@1"]
    assert os.listdir(root / "staging") == os.listdir(root / "trash") == []
    assert os.listdir(record.parent) == [record.name]


def test_one_process_per_root(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="Another server"):
        LocalStore(tmp_path / "store")
    store.close()
    LocalStore(tmp_path / "store").close()


def test_concurrent_commits_get_versions_of_their_own(store: LocalStore, builder: Any) -> None:
    folders = [builder.folder(seed=seed) for seed in range(24)]
    manifests = [builder.manifest(folder) for folder in folders]

    def commit(i: int) -> AdapterVersion:
        return store.commit(builder.stage(store, folders[i]), "acme", "a", manifests[i])

    with ThreadPoolExecutor(8) as pool:
        versions = list(pool.map(commit, range(24)))
    assert sorted(version.version for version in versions) == list(range(1, 25))
    assert store.list("acme", 1000)[0] == sorted(versions, key=lambda version: version.version)


def test_concurrent_uploads_of_the_same_bytes_are_one_version(store: LocalStore, builder: Any) -> None:
    folder = builder.folder()
    manifest = builder.manifest(folder)
    with ThreadPoolExecutor(8) as pool:
        jobs = [
            pool.submit(lambda: store.commit(builder.stage(store, folder), "acme", "a", manifest))
            for _ in range(30)
        ]
        versions = {job.result().version for job in jobs}
    assert versions == {1}


def test_commits_deletes_collections_and_reads_at_once(store: LocalStore, builder: Any) -> None:
    folders = [builder.folder(seed=seed) for seed in range(3)]
    manifests = [builder.manifest(folder) for folder in folders]

    def churn(i: int) -> None:
        name = f"n{i % 3}"
        version = store.commit(builder.stage(store, folders[i % 3]), "acme", name, manifests[i % 3])
        assert version.digest == manifests[i % 3].digest
        store.collect()
        if i % 2:
            # Another thread may have been faster.
            with suppress(AdapterNotFound):
                store.delete("acme", name)
        store.list("acme")

    with ThreadPoolExecutor(6) as pool:
        for job in [pool.submit(churn, i) for i in range(30)]:
            job.result()
    for version in store.list("acme")[0]:
        assert load(store.folder(version.digest), version.manifest)


def test_a_thousand_names(store: LocalStore, builder: Any, reopen: Callable[[], LocalStore]) -> None:
    version = builder.commit(store, "acme", "seed")
    for i in range(1000):
        entry = Entry("acme", f"n{i}").with_version(version.digest, 1, 0.0)
        store._backend.cas_ref(entry_key("acme", entry.name), entry.to_json(), "")
    assert len(reopen().list("acme", 1000)[0]) == 1000
