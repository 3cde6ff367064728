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

from adapters import LocalStore, StoreUnavailable

Events = list[tuple[str, str]]
# Writes, syncs, renames, links, opens and folder creations of one commit to a fresh name.
NUM_CALLS = 20


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
    staged = f"staging/{staging.folder.name}"
    assert [f"{staged}/{file.name}" for file in staging.files] == [path for _, path in events]
    events.clear()
    version = store.commit(staging, "acme", "a", manifest)
    prefix = version.digest[:2]
    key = next((tmp_path / "store" / "names").iterdir()).name
    draft = [path for kind, path in events if path.endswith(".tmp")]
    assert events == [
        ("fsync", f"{staged}/manifest.json"),
        ("fsync", staged),
        ("fsync", "blobs"),
        ("rename", f"blobs/{prefix}/{version.digest}"),
        ("fsync", f"blobs/{prefix}"),
        ("fsync", "names"),
        ("fsync", draft[0]),
        ("link", f"names/{key}/1.json"),
        ("fsync", f"names/{key}"),
    ]
    events.clear()
    store.delete("acme", "a")
    assert events == [("rename", f"names/{key}/1.deleted"), ("fsync", f"names/{key}")]


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
        if made() < count:
            break
        store.collect(())
        assert [version.name for version in store.list("acme")[0]] == ["old"]
        assert os.listdir(tmp_path / "store" / "staging") == []
        assert os.listdir(tmp_path / "store" / "trash") == []
        assert not list((tmp_path / "store" / "names").glob("*/*.tmp"))
    assert count == NUM_CALLS + 1
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
            store.collect(())
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
            loaded = builder.load(store.folder(version.digest), version.manifest)
            assert loaded, "a partial version is visible"
        live = {key: version.digest for key, version in found.items()}
        unsure.clear()
        assert os.listdir(root / "staging") == os.listdir(root / "trash") == []
        store.collect(())
        assert {path.name for path in root.glob("blobs/*/*")} == set(live.values())
        store.close()


def test_ten_kills(builder: Any, tmp_path: Path) -> None:
    kill_storm(builder, tmp_path, 10)


@pytest.mark.long
def test_a_hundred_kills(builder: Any, tmp_path: Path) -> None:
    kill_storm(builder, tmp_path, 100)
