"""The order of syncs and renames, failing disks, and kills at any instant."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from adapters import LocalStore, Share, StoreUnavailable
from adapters.entry import entry_key
from tests.adapters.base import load

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


WORKER = """
import itertools, os, sys, threading
from pathlib import Path
from adapters import BaseShapes, FILE_NAMES, LocalStore, Manifest
root, source = Path(sys.argv[1]), Path(sys.argv[2])
store = LocalStore(root)
folders = sorted(source.iterdir())
def commit(worker):
    for i in itertools.count(worker):
        folder = folders[i % len(folders)] / "files"
        manifest = Manifest.from_json((folder.parent / "manifest").read_text())
        with store.stage(list(manifest.files), 1 << 30) as staging:
            for name in FILE_NAMES:
                staging.write(name, 0, (folder / name).read_bytes())
            staging.seal()
            version = store.commit(staging, "acme", f"n{worker}", manifest)
        os.write(1, f"+ {version.name} {version.version} {version.digest}\\n".encode())
        if i % 5 == 4:
            os.write(1, f"? {version.name} {version.version} {version.digest}\\n".encode())
            store.delete("acme", f"{version.name}@{version.version}")
            os.write(1, f"- {version.name} {version.version} {version.digest}\\n".encode())
            store.collect()
for worker in range(2):
    threading.Thread(target=commit, args=(worker,)).start()
"""


def run_and_kill(root: Path, source: Path, rng: random.Random) -> list[list[str]]:
    """Lets a server commit and delete until a random instant; returns what it acknowledged."""
    child = subprocess.Popen([sys.executable, "-c", WORKER, str(root), str(source)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    told = [child.stdout.readline() for _ in range(rng.randint(1, 12))]
    try:
        child.wait(timeout=rng.random() * 0.02)
    except subprocess.TimeoutExpired:
        child.kill()
    child.wait()
    told += child.stdout.readlines()
    child.stdout.close()
    assert child.returncode == -9
    return [line.decode().split() for line in told]


def kill_storm(builder: Any, tmp_path: Path, num_kills: int) -> None:
    root, source, rng = tmp_path / "killed", tmp_path / "source", random.Random(0)
    source.mkdir()
    for seed in range(7):
        folder = builder.folder(seed=seed)
        (source / str(seed)).mkdir()
        (source / str(seed) / "manifest").write_text(builder.manifest(folder).to_json())
        folder.rename(source / str(seed) / "files")
    live: dict[tuple[str, int], str] = {}
    unsure: set[tuple[str, int]] = set()
    for _ in range(num_kills):
        for sign, name, version, digest in run_and_kill(root, source, rng):
            key = (name, int(version))
            if sign == "+":
                live[key] = digest
            elif sign == "?":
                unsure.add(key)
            else:
                del live[key]
        store = LocalStore(root)
        found = {(version.name, version.version): version for version in store.list("acme", 1000)[0]}
        for key, digest in live.items():
            assert key in unsure or found[key].digest == digest, "an acknowledged version is lost"
        for version in found.values():
            assert load(store.folder(version.digest), version.manifest), "a partial version is visible"
        live = {key: version.digest for key, version in found.items()}
        unsure.clear()
        assert os.listdir(root / "staging") == os.listdir(root / "trash") == []
        store.collect()
        assert {path.name for path in root.glob("blobs/*/*")} == set(live.values())
        store.close()


def test_ten_kills(builder: Any, tmp_path: Path) -> None:
    kill_storm(builder, tmp_path, 10)


@pytest.mark.long
def test_a_hundred_kills(builder: Any, tmp_path: Path) -> None:
    kill_storm(builder, tmp_path, 100)
