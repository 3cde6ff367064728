"""Killed at every point of a commit and of an alias's move; full, failing and read-only disks."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from adapters import LocalStore, Share, StoreUnavailable
from tests.adapters.base import load

# Point -> which call on which path, and whether the process dies before or behind it.
POINTS = {
    "after_write": ("write", r"files/adapter_model", "behind"),
    "before_seal": ("fsync", r"files/adapter_model", "before"),
    "before_fsync": ("fsync", r"files/manifest\.json$", "before"),
    "before_rename": ("rename", r"blobs/../", "before"),
    "after_rename": ("rename", r"blobs/../", "behind"),
    "before_dirsync": ("fsync", r"blobs/..$", "before"),
    "before_ref": ("rename", r"refs/", "before"),
    "after_ref": ("rename", r"refs/", "behind"),
    "before_ref_dirsync": ("fsync", r"refs$", "before"),
    "before_alias_cas": ("rename", r"refs/", "before"),
    "after_alias_cas": ("rename", r"refs/", "behind"),
}
COMMITTED = ("after_ref", "before_ref_dirsync", "before_alias_cas", "after_alias_cas")
CHILD = r"""
import os, re, signal, sys
from pathlib import Path
from adapters import FILE_NAMES, LocalStore, Manifest, Share
from tests.adapters.base import load
root, source, point, call, pattern, when = sys.argv[1:]
store = LocalStore(Path(root))

def commit(seed):
    manifest = Manifest.from_json((Path(source) / f"{seed}.json").read_text())
    with store.stage(list(manifest.files), 1 << 30) as staging:
        for name in FILE_NAMES:
            staging.write(name, 0, (Path(source) / str(seed) / name).read_bytes())
        staging.seal()
        store.commit(staging, "acme", "a", manifest)

def path_of(args):
    return str(args[-1]) if call == "rename" else os.readlink(f"/proc/self/fd/{args[0]}")

def arm():
    real = getattr(os, call)
    def deadly(*args):
        hit = re.search(pattern, path_of(args))
        if hit and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(*args)
        if hit:
            os.kill(os.getpid(), signal.SIGKILL)
        return done
    setattr(os, call, deadly)

commit(1)
store.aliases.set("acme", "a", "prod", [Share(1, 1)])
os.write(1, b"first\n")
if "alias" not in point:
    arm()
commit(2)
arm()
store.aliases.set("acme", "a", "prod", [Share(2, 1)])
"""


def sources(builder: Any, tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for seed in (1, 2):
        made = builder.folder(seed=seed)
        (folder / f"{seed}.json").write_text(builder.manifest(made).to_json())
        made.rename(folder / str(seed))
    return folder


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=[pytest.mark.long, pytest.mark.timeout(1800)])])
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point(builder: Any, tmp_path: Path, point: str, kills: int) -> None:
    source = sources(builder, tmp_path)
    for number in range(kills):
        root = tmp_path / f"store{number}"
        command = [sys.executable, "-c", CHILD, str(root), str(source), point, *POINTS[point]]
        done = subprocess.run(command, capture_output=True)
        assert (done.returncode, done.stdout) == (-9, b"first\n"), done.stderr
        check(root, point)


def check(root: Path, point: str) -> None:
    """What was confirmed is there, what is there is whole, and the alias names what is there."""
    store = LocalStore(root)
    versions = {version.version: version for version in store.list("acme")[0]}
    assert set(versions) == ({1, 2} if point in COMMITTED else {1})
    for version in versions.values():
        assert load(store.folder(version.digest), version.manifest)
    assert store.resolve("acme", "a@prod").version == (2 if point == "after_alias_cas" else 1)
    store.collect()
    assert {path.name for path in root.glob("blobs/*/*")} == {each.digest for each in versions.values()}
    assert os.listdir(root / "staging") == os.listdir(root / "trash") == []
    assert not list(root.glob("refs/*.tmp"))
    store.close()


@pytest.mark.parametrize("call", ["write", "fsync", "rename", "open"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_disk_that_fails_is_a_sentence_and_looks_go_on(
    store: LocalStore, builder: Any, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    version = builder.commit(store, "acme", "a")
    store.aliases.set("acme", "a", "prod", [Share(1, 1)])
    folder = builder.folder(seed=1)
    manifest = builder.manifest(folder)
    real = getattr(os, call)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if call == "open" and not args[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        for change in (
            lambda: store.commit(builder.stage(store, folder), "acme", "b", manifest),
            lambda: store.aliases.set("acme", "a", "prod", [Share(1, 2)]),
            lambda: store.delete("acme", "a", force=True),
            lambda: store.pins.pin("acme", "a", 1, "device"),
        ):
            with pytest.raises(StoreUnavailable, match="retry"):
                change()
        found = store.resolve("acme", "a@prod")
        assert (found.digest, found.pinned) == (version.digest, "")
        assert load(store.folder(found.digest), found.manifest)
    assert store.aliases.get("acme", "a", "prod").shares == (Share(1, 1),)
    assert builder.commit(store, "acme", "b", seed=1).version == 1
