"""A process that uploads and deletes, killed at any instant: on a disk, and over a real bucket service."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from adapters import Store
from adapters.opening import open_store
from tests.adapters.base import load

WORKER = """
import itertools, os, sys, threading
from pathlib import Path
from adapters import FILE_NAMES, Manifest
from adapters.opening import open_store
address, cache, endpoint, source = sys.argv[1:]
store = open_store(Path(address), Path(cache), 1 << 30, endpoint)
folders = sorted(Path(source).iterdir())
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
for worker in range(4):
    threading.Thread(target=commit, args=(worker,)).start()
"""
Key = tuple[str, int]


class Place:
    """Where the processes store, one after another, and what of it is there."""

    def __init__(self, address: Path, folder: Path, bucket: Any = None) -> None:
        self.folder = folder
        self._bucket = bucket
        self.arguments = [str(address), str(folder), bucket.endpoint if bucket else ""]

    def open(self) -> Store:
        address, folder, endpoint = self.arguments
        return open_store(Path(address), Path(folder), 1 << 30, endpoint)

    def digests(self, store: Store) -> set[str]:
        """Those of all blobs, once what nobody names was collected."""
        if self._bucket is None:
            store.collect()
            return {path.name for path in self.folder.glob("blobs/*/*")}
        store._backend._grace = 0.0  # type: ignore[attr-defined]
        store.collect()
        return {listed.key.split("/")[1] for listed in self._bucket.objects().list("blobs/")}


@pytest.fixture(params=["disk", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "disk":
        yield Place(tmp_path / "killed", tmp_path / "killed")
        return
    bucket = request.getfixturevalue("bucket")
    from tests.adapters import buckets

    yield Place(Path(f"s3://{bucket.name}/{buckets.PREFIX}"), tmp_path / "killed", bucket)


@pytest.fixture
def source(builder: Any, tmp_path: Path) -> Path:
    """Checked adapters, each beside its manifest."""
    root = tmp_path / "source"
    root.mkdir()
    for seed in range(7):
        folder = builder.folder(seed=seed)
        (root / str(seed)).mkdir()
        (root / str(seed) / "manifest").write_text(builder.manifest(folder).to_json())
        folder.rename(root / str(seed) / "files")
    return root


def run_and_kill(arguments: list[str], rng: random.Random) -> list[list[str]]:
    """Lets a process commit and delete until a random instant; returns what it confirmed."""
    child = subprocess.Popen([sys.executable, "-c", WORKER, *arguments], stdout=subprocess.PIPE)
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


class Book:
    """What must be there: the versions that were confirmed, and those whose deletion had begun."""

    def __init__(self) -> None:
        self.live: dict[Key, str] = {}
        self.unsure: set[Key] = set()

    def take(self, told: list[list[str]]) -> None:
        for sign, name, number, digest in told:
            key = (name, int(number))
            if sign == "+":
                self.live[key] = digest
            elif sign == "?":
                self.unsure.add(key)
            else:
                del self.live[key]

    def check(self, store: Store, digests: Callable[[Store], set[str]]) -> None:
        found = {(version.name, version.version): version for version in store.list("acme", 1000)[0]}
        for key, digest in self.live.items():
            assert key in self.unsure or found[key].digest == digest, "a confirmed version is lost"
        for version in found.values():
            assert load(store.folder(version.digest), version.manifest), "a partial version is visible"
        self.live = {key: version.digest for key, version in found.items()}
        self.unsure.clear()
        assert digests(store) == set(self.live.values())


@pytest.mark.parametrize("kills", [3, pytest.param(100, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_kills_lose_nothing_and_leave_nothing_partial(place: Place, source: Path, kills: int) -> None:
    book, rng = Book(), random.Random(0)
    for _ in range(kills):
        book.take(run_and_kill([*place.arguments, str(source)], rng))
        store = place.open()
        for leftovers in ("staging", "trash"):
            assert os.listdir(place.folder / leftovers) == []
        book.check(store, place.digests)
        store.close()
    assert len(book.live) > kills, "the processes did what they were killed in"
