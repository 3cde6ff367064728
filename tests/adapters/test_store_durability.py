"""The order of syncs and renames, and failing disks."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from adapters import LocalStore, Share, StoreUnavailable
from adapters.entry import entry_key

Events = list[tuple[str, str]]
# Writes, syncs, renames, opens and folder creations until a commit to a fresh name is durable.
NUM_CALLS = 17


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Events:
    """Every fsync, rename and link from here on, with paths relative to the store."""
    seen: Events = []
    fsync, rename, link, root = os.fsync, os.rename, os.link, tmp_path / "store"

    def note(kind: str, path: object) -> None:
        seen.append((kind, os.path.relpath(str(path), root)))

    def noted_fsync(fd: int) -> None:
        note("fsync", os.readlink(f"/proc/self/fd/{fd}"))
        fsync(fd)

    def noted_rename(source: Path, target: Path) -> None:
        rename(source, target)
        note("rename", target)

    def noted_link(source: Path, target: Path) -> None:
        link(source, target)
        note("link", target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    monkeypatch.setattr(os, "link", noted_link)
    return seen


def test_everything_is_synced_before_it_is_named(
    store: LocalStore, builder: Any, events: Events, tmp_path: Path
) -> None:
    folder = builder.folder()
    manifest = builder.manifest(folder)
    staging = builder.stage(store, folder)
    staged = f"staging/{staging.folder.parent.name}"
    assert [path for _, path in events] == [
        f"{staged}/upload.json",
        staged,
        *(f"{staged}/files/{file.name}" for file in staging.files),
    ]
    events.clear()
    version = store.commit(staging, "acme", "a", manifest)
    blobs, ref = f"blobs/{version.digest[:2]}", f"refs/{entry_key('acme', 'a')}.json"
    assert [event for event in events if not event[1].endswith(".tmp")] == [
        ("fsync", f"{staged}/files/manifest.json"),
        ("fsync", f"{staged}/files"),
        ("fsync", "blobs"),
        ("rename", f"{blobs}/{version.digest}"),
        ("fsync", blobs),
        ("rename", ref),
        ("fsync", "refs"),
    ]
    assert_drafts_are_synced_first(events)
    events.clear()
    store.aliases.set("acme", "a", "prod", [Share(1, 1)])
    store.delete("acme", "a", force=True)
    assert [kind for kind, _ in events] == ["fsync", "rename", "fsync"] * 2
    assert_drafts_are_synced_first(events)


def assert_drafts_are_synced_first(events: Events) -> None:
    """Each document is synced under its draft's name right before it takes its place, and its place after."""
    moves = [at for at, (kind, path) in enumerate(events) if kind == "rename" and path.startswith("refs/")]
    assert moves
    for at in moves:
        assert events[at - 1][0] == "fsync" and events[at - 1][1].endswith(".tmp")
        assert events[at + 1] == ("fsync", "refs")


def fail_at(monkeypatch: pytest.MonkeyPatch, count: int, code: int) -> Callable[[], int]:
    """Makes the `count`-th disk call fail; the function returned tells how many were made."""
    made = 0

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            made += 1
            if made == count:
                raise OSError(code, os.strerror(code))
            return call(*args, **kwargs)

        return wrapped

    for name in ("write", "fsync", "rename", "link", "mkdir", "open"):
        monkeypatch.setattr(os, name, wrap(getattr(os, name)))
    return lambda: made


@pytest.mark.parametrize("code", [28, 5])
def test_whichever_call_fails_nothing_is_visible(
    store: LocalStore, builder: Any, tmp_path: Path, code: int
) -> None:
    builder.commit(store, "acme", "old", seed=100)
    folder = builder.folder(seed=1)
    manifest = builder.manifest(folder)
    count = 0
    while True:
        count += 1
        staging = builder.stage(store, folder)
        with pytest.MonkeyPatch.context() as patch:
            made = fail_at(patch, count, code)
            with pytest.raises(StoreUnavailable) if count <= NUM_CALLS else nullcontext():
                store.commit(staging, "acme", "new", manifest)
        if count > NUM_CALLS:
            assert made() == count, "what fails now only fails to tidy up behind a durable version"
            break
        store.collect()
        assert [version.name for version in store.list("acme")[0]] == ["old"]
        assert os.listdir(tmp_path / "store" / "staging") == []
        assert os.listdir(tmp_path / "store" / "trash") == []
        assert not list((tmp_path / "store" / "refs").glob("*.tmp"))
    assert [version.name for version in store.list("acme")[0]] == ["new", "old"]
    store.close()
    again = LocalStore(tmp_path / "store")
    assert [version.name for version in again.list("acme")[0]] == ["new", "old"]
    again.close()
