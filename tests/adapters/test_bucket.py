"""A store in a bucket that several servers share."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from adapters import AdapterNotFound, Share, Store, StoreUnavailable, content_digest
from adapters import bucket as bucket_module
from adapters.backend import RefChanged
from adapters.tombstones import GRACE_SECONDS
from tests.adapters.base import load


def nobody(digest: str) -> bool:
    return False


def test_what_one_server_stores_all_serve(bucket: Any, builder: Any) -> None:
    one, two = bucket.store(), bucket.store()
    first = builder.commit(one, "acme", "a", seed=1)
    assert two.resolve("acme", "a") == first, "an unknown name is looked for"
    second = builder.commit(two, "acme", "a", seed=2)
    assert second.version == 2, "numbers are the bucket's"
    assert one.resolve("acme", "a@2") == second, "an unknown version is looked for"
    one.aliases.set("acme", "a", "prod", [Share(1, 1)])
    assert two.resolve("acme", "a@prod").digest == first.digest
    for store in (one, two):
        for version in (first, second):
            assert load(store.folder(version.digest, nobody), version.manifest)
    assert two.list("acme")[0] == one.list("acme")[0]


def test_what_is_known_is_as_fresh_as_the_last_refresh(bucket: Any, builder: Any) -> None:
    one, two = bucket.store(), bucket.store()
    first = builder.commit(one, "acme", "a", seed=1)
    two.refresh()
    builder.commit(one, "acme", "a", seed=2)
    one.delete("acme", "a@1")
    assert two.resolve("acme", "a") == first
    assert two.refresh() and not two.refresh()
    assert two.resolve("acme", "a").version == 2
    with pytest.raises(AdapterNotFound):
        two.resolve("acme", "a@1")


def test_a_change_is_made_of_what_is_there_now(bucket: Any, builder: Any) -> None:
    """Also where the server that makes it has old news."""
    one, two = bucket.store(), bucket.store()
    for seed in range(2):
        builder.commit(one, "acme", "a", seed=seed)
    two.refresh()
    builder.commit(one, "acme", "a", seed=2)
    two.aliases.set("acme", "a", "prod", [Share(3, 1)])
    one.delete("acme", "a@1")
    assert [version.version for version in bucket.store().list("acme")[0]] == [2, 3]
    assert one.aliases.get("acme", "a", "prod").shares == (Share(3, 1),)


def test_copies_are_put_out_by_bytes_but_not_what_is_held(bucket: Any, builder: Any) -> None:
    one = bucket.store()
    versions = [builder.commit(one, "acme", f"n{seed}", seed=seed) for seed in range(4)]
    size = sum(path.stat().st_size for path in one.folder(versions[0].digest).iterdir())
    two = bucket.store(cache_bytes=2 * size + size // 2)
    held = versions[0].digest
    folders = [two.folder(version.digest, held.__eq__) for version in versions]
    assert [folder.exists() for folder in folders] == [True, False, False, True]
    assert two.folder(versions[1].digest, held.__eq__).exists(), "what was put out is fetched again"


def test_what_was_made_of_a_copy_counts_by_bytes_too(bucket: Any, builder: Any) -> None:
    one = bucket.store()
    first, second = (builder.commit(one, "acme", f"n{seed}", seed=seed) for seed in range(2))
    size = sum(path.stat().st_size for path in one.folder(first.digest).iterdir())
    two = bucket.store(cache_bytes=2 * size + size // 2)
    folder = two.folder(first.digest, nobody)
    (folder / "prepared").mkdir()
    (folder / "prepared" / "packed").write_bytes(b"x" * size)
    assert two.folder(first.digest, nobody).exists()
    assert two.folder(second.digest, nobody).exists() and not folder.exists()


def test_many_fetch_one_copy(bucket: Any, builder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    version = builder.commit(bucket.store(), "acme", "a")
    two = bucket.store()
    fetched = []
    fetch = two._backend._fetch
    monkeypatch.setattr(two._backend, "_fetch", lambda d, f: (fetched.append(d), fetch(d, f)))
    with ThreadPoolExecutor(8) as pool:
        folders = set(pool.map(lambda _: two.folder(version.digest, nobody), range(16)))
    assert fetched == [version.digest] and len(folders) == 1


def test_a_damaged_copy_is_fetched_again(bucket: Any, builder: Any) -> None:
    from adapters.bucket import BucketBackend
    from adapters.cache import BlobCache

    version = builder.commit(bucket.store(), "acme", "a")
    two = bucket.store()
    folder = two.folder(version.digest, nobody)
    two.close()
    (folder / "adapter_model.safetensors").write_bytes(b"x")
    cache = BlobCache(folder.parent.parent.parent, 1 << 30)
    again = BucketBackend(bucket.objects(), cache)
    assert load(again.get_blob(version.digest, nobody), version.manifest)
    again.close()


def test_a_damaged_object_is_refused_and_healed_by_the_same_upload(bucket: Any, builder: Any) -> None:
    one = bucket.store()
    version, other = (builder.commit(one, "acme", name, seed=i) for i, name in enumerate("ab"))
    bucket.objects().put(f"blobs/{version.digest}/adapter_model.safetensors", b"x")
    two = bucket.store()
    with pytest.raises(StoreUnavailable, match="upload it again"):
        two.folder(version.digest, nobody)
    assert load(two.folder(other.digest, nobody), other.manifest)
    assert builder.commit(one, "acme", "a") == version
    assert load(two.folder(version.digest, nobody), version.manifest)


def test_deleted_bytes_go_a_grace_after_the_deletion(
    bucket: Any, builder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago they were uploaded: a server that has not heard of it may still begin to read them."""
    one, unaware = bucket.store(), bucket.store()
    gone, kept = (builder.commit(one, "acme", name, seed=i) for i, name in enumerate("ab"))
    unaware.refresh()
    long_after_the_upload = time.time() + 2 * GRACE_SECONDS
    monkeypatch.setattr(bucket_module, "time", lambda: long_after_the_upload)
    monkeypatch.setattr("adapters.store.time.time", lambda: long_after_the_upload)
    one.delete("acme", "a")
    assert one.collect() == [gone.digest], "its own copy"
    assert load(unaware.folder(gone.digest, nobody), gone.manifest), "the others' copies are theirs"
    monkeypatch.setattr(bucket_module, "time", lambda: long_after_the_upload + GRACE_SECONDS)
    assert bucket.store().collect() == [gone.digest]
    with pytest.raises(StoreUnavailable):
        bucket.store().folder(gone.digest, nobody)
    assert load(unaware.folder(gone.digest, nobody), gone.manifest), "who has a copy goes on with it"
    assert load(bucket.store().folder(kept.digest, nobody), kept.manifest)


def test_what_is_uploaded_again_during_a_collection_stays(
    bucket: Any, builder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, collector = bucket.store(), bucket.store(grace=30.0)
    versions = [builder.commit(one, "acme", name, seed=i) for i, name in enumerate("ab")]
    for name in "ab":
        one.delete("acme", name)
    collector.refresh()
    later = time.time() + 60
    monkeypatch.setattr(bucket_module, "time", lambda: later)
    remove, again = collector._backend._remove, versions[1]

    def remove_late(digest: str, is_due: Any) -> bool:
        if digest == again.digest:
            monkeypatch.setattr(bucket_module, "time", time.time)
            builder.commit(one, "acme", "b", seed=1)
        return bool(remove(digest, is_due))

    monkeypatch.setattr(collector._backend, "_remove", remove_late)
    assert again.digest not in collector.collect()
    assert load(bucket.store().folder(again.digest, nobody), again.manifest)


def test_a_deletion_by_force_is_known_to_all(bucket: Any, builder: Any) -> None:
    one, two = bucket.store(), bucket.store()
    for seed in range(2):
        builder.commit(one, "acme", "a", seed=seed)
    two.refresh()
    one.delete("acme", "a@1", force=True)
    one.delete("acme", "a@2")
    assert not two.was_forced_out("acme", "a", 1)
    two.resolve("acme", "a@2")
    with pytest.raises(AdapterNotFound):
        two.resolve("acme", "a@3")
    assert two.was_forced_out("acme", "a", 1) and not two.was_forced_out("acme", "a", 2)
    assert two.refresh(), "what a miss has brought is news like any other"
    assert not two.refresh()


def test_a_bucket_that_is_away_is_a_sentence(bucket: Any, builder: Any) -> None:
    store = bucket.store()
    builder.commit(store, "acme", "a")
    store._backend._objects._bucket = "nobody"
    with pytest.raises(StoreUnavailable, match="NoSuchBucket"):
        builder.commit(store, "acme", "b", seed=1)
    assert store.resolve("acme", "a").version == 1, "what is known is served"


def test_conflicts_are_tried_again(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What AWS answers to two conditional writes at once."""
    from botocore.exceptions import ClientError

    objects = bucket.objects()
    put, answers = objects._s3.put_object, iter([409, 409])

    def conflicting(**given: Any) -> Any:
        if (status := next(answers, None)) is not None:
            error = {"Error": {"Code": "ConditionalRequestConflict"}}
            raise ClientError({**error, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")
        return put(**given)

    monkeypatch.setattr(objects._s3, "put_object", conflicting)
    assert objects.put("key", b"data", etag="")
    assert objects.get("key").data == b"data"


def test_every_object_has_its_checksum(bucket: Any, builder: Any) -> None:
    """Given with the bytes, so that the service refuses bytes that changed on their way to it."""
    version = builder.commit(bucket.store(), "acme", "a")
    objects = bucket.objects()
    for file in version.manifest.files:
        assert objects.sha256(f"blobs/{version.digest}/{file.name}") == file.sha256
    assert all(objects.sha256(listed.key) for listed in objects.list(""))


def create_many(create: Callable[[int], None]) -> int:
    """How many of 30 at once succeed."""

    def attempt(number: int) -> bool:
        try:
            create(number)
        except RefChanged:
            return False
        return True

    with ThreadPoolExecutor(30) as pool:
        return sum(pool.map(attempt, range(30)))


def test_of_thirty_creations_one_wins(stores: Callable[[], Store]) -> None:
    """By servers of their own where the storage is shared; the document is the winner's."""
    backends = [stores()._backend for _ in range(6)]
    key = "0" * 64
    won = []

    def create(number: int) -> None:
        backends[number % len(backends)].cas_ref(key, str(number).encode(), "")
        won.append(number)

    assert create_many(create) == 1
    ref = backends[0].get_ref(key)
    assert ref is not None and ref.data == str(won[0]).encode()

    def replace(number: int) -> None:
        backends[number % len(backends)].cas_ref(key, f"new {number}".encode(), ref.etag)

    assert create_many(replace) == 1


def test_of_thirty_uploads_of_one_adapter_one_is_stored(stores: Callable[[], Store], builder: Any) -> None:
    folder = builder.folder()
    manifest = builder.manifest(folder)

    def commit(store: Store) -> int:
        return store.commit(builder.stage(store, folder), "acme", "a", manifest).version

    servers = [stores() for _ in range(6)]
    with ThreadPoolExecutor(12) as pool:
        versions = list(pool.map(commit, servers * 5))
    assert set(versions) == {1}
    assert content_digest(manifest.files) == stores().resolve("acme", "a").digest
    assert os.listdir(stores().folder(manifest.digest))
