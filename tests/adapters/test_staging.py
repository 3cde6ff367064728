from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from adapters import (
    ChecksumMismatch,
    FileSpec,
    LocalStore,
    StoreUnavailable,
    UploadIncomplete,
    UploadRejected,
    UploadTooLarge,
)
from adapters.staging import Staging

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SHA = "0" * 64
LIMIT = 1 << 20


def staged(tmp_path: Path) -> list[str]:
    return os.listdir(tmp_path / "store" / "staging")


@pytest.mark.parametrize(
    "files",
    [
        [],
        [FileSpec(CONFIG, 1, SHA)],
        [FileSpec(CONFIG, 1, SHA), FileSpec(CONFIG, 1, SHA)],
        [FileSpec(CONFIG, 1, SHA), FileSpec("adapter_model.bin", 1, SHA)],
        [FileSpec(CONFIG, 1, SHA), FileSpec(f"../{WEIGHTS}", 1, SHA)],
        [FileSpec(CONFIG, 1, SHA), FileSpec(WEIGHTS, 1, SHA), FileSpec("notes.txt", 1, SHA)],
        [FileSpec(CONFIG, 1, SHA), FileSpec(WEIGHTS, 1, SHA), FileSpec("README.md", (1 << 20) + 1, SHA)],
        [FileSpec(CONFIG, 0, SHA), FileSpec(WEIGHTS, 1, SHA)],
        [FileSpec(CONFIG, 1, SHA), FileSpec(WEIGHTS, -1, SHA)],
        [FileSpec(CONFIG, 64 * 1024 + 1, SHA), FileSpec(WEIGHTS, 1, SHA)],
        [FileSpec(CONFIG, 1, "A" * 64), FileSpec(WEIGHTS, 1, SHA)],
        [FileSpec(CONFIG, 1, SHA), FileSpec(WEIGHTS, 1, "")],
    ],
)
def test_bad_declarations_touch_no_disk(store: LocalStore, tmp_path: Path, files: list[FileSpec]) -> None:
    with pytest.raises(UploadRejected):
        store.stage(files, LIMIT)
    assert staged(tmp_path) == []


def test_too_large_is_its_own_error(store: LocalStore, tmp_path: Path) -> None:
    with pytest.raises(UploadTooLarge, match="at most"):
        store.stage([FileSpec(CONFIG, 1, SHA), FileSpec(WEIGHTS, LIMIT, SHA)], LIMIT)
    assert staged(tmp_path) == []


def test_files_are_private(store: LocalStore, builder: Any) -> None:
    with builder.stage(store, builder.folder()) as staging:
        assert stat.S_IMODE(staging.folder.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in staging.folder.iterdir()} == {0o600}
    assert not staging.folder.exists()


@pytest.mark.parametrize(
    ("name", "offset", "size"),
    [
        (CONFIG, 0, 1000),
        ("other", 0, 1),
        (f"./{CONFIG}", 0, 1),
        ("../x", 0, 1),
    ],
)
def test_a_wrong_chunk_ends_the_upload(
    store: LocalStore, builder: Any, tmp_path: Path, name: str, offset: int, size: int
) -> None:
    staging = store.stage(builder.specs(builder.folder()), LIMIT)
    with pytest.raises(UploadRejected):
        staging.write(name, offset, b"x" * size)
    assert staged(tmp_path) == []
    with pytest.raises(UploadRejected):
        staging.write(CONFIG, 0, b"x")


def test_the_byte_after_the_declared_last_one(store: LocalStore, builder: Any, tmp_path: Path) -> None:
    folder = builder.folder()
    staging = store.stage(builder.specs(folder), LIMIT)
    data = (folder / CONFIG).read_bytes()
    for at in range(0, len(data), 7):
        staging.write(CONFIG, at, memoryview(data)[at : at + 7])
    with pytest.raises(UploadRejected, match="more arrived"):
        staging.write(CONFIG, len(data), b"x")
    assert staged(tmp_path) == []


@pytest.mark.parametrize("offset", [-1, 0, 2])
def test_a_wrong_offset_loses_nothing(store: LocalStore, builder: Any, offset: int) -> None:
    with store.stage(builder.specs(builder.folder()), LIMIT) as staging:
        staging.write(CONFIG, 0, b"{")
        with pytest.raises(UploadIncomplete, match="continues at byte 1"):
            staging.write(CONFIG, offset, b"x")
        assert staging.sizes == {CONFIG: 1, WEIGHTS: 0}


def test_seal_wants_every_byte_and_waits_for_it(store: LocalStore, builder: Any) -> None:
    folder = builder.folder()
    with store.stage(builder.specs(folder), LIMIT) as staging:
        staging.write(CONFIG, 0, (folder / CONFIG).read_bytes()[:1])
        with pytest.raises(UploadIncomplete, match="arrived"):
            staging.seal()
        staging.write(CONFIG, 1, (folder / CONFIG).read_bytes()[1:])
        staging.write(WEIGHTS, 0, (folder / WEIGHTS).read_bytes())
        staging.seal()
        assert staging.sealed


def test_what_is_verified_is_durable_only_once_it_is_synced(store: LocalStore, builder: Any) -> None:
    folder = builder.folder()
    with store.stage(builder.specs(folder), LIMIT) as staging:
        with pytest.raises(UploadRejected, match="not here whole"):
            staging.sync()
        for name in (CONFIG, WEIGHTS):
            staging.write(name, 0, (folder / name).read_bytes())
        staging.verify()
        assert not staging.sealed
        # What is made of them stands beside them meanwhile.
        (staging.folder / "prepared").mkdir()
        staging.sync()
        assert staging.sealed and (staging.folder / "prepared").is_dir()
    with pytest.raises(UploadRejected, match="not here whole"):
        staging.sync()


def test_what_is_verified_takes_no_more_and_cannot_be_committed(store: LocalStore, builder: Any) -> None:
    folder = builder.folder()
    with store.stage(builder.specs(folder), LIMIT) as staging:
        for name in (CONFIG, WEIGHTS):
            staging.write(name, 0, (folder / name).read_bytes())
        staging.verify()
        with pytest.raises(UploadRejected, match="not the uploaded ones"):
            store.commit(staging, "acme", "a", builder.manifest(folder))
        with pytest.raises(UploadRejected, match="is sealed"):
            staging.write(CONFIG, staging.sizes[CONFIG], b"")
    assert store.list("acme")[0] == []


def test_a_sync_that_fails_leaves_the_files_to_who_is_at_work_on_them(
    store: LocalStore, builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = builder.folder()
    staging = store.stage(builder.specs(folder), LIMIT)
    for name in (CONFIG, WEIGHTS):
        staging.write(name, 0, (folder / name).read_bytes())
    staging.verify()

    def fail(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreUnavailable, match="syncing an upload"):
        staging.sync()
    assert not staging.sealed and (staging.folder / WEIGHTS).is_file()
    staging.discard()
    assert staged(tmp_path) == []


def test_what_a_broken_commit_left_beside_the_files_is_no_part_of_the_next(
    store: LocalStore, builder: Any
) -> None:
    """A process that is killed between writing the manifest and naming the blob leaves both."""
    with builder.stage(store, builder.folder()) as staging:
        (staging.folder / "manifest.json").write_text("{}")
        (staging.folder / "prepared").mkdir()
        (staging.folder / "prepared" / "x.safetensors").touch()
        again = Staging.reopen(staging.folder.parent)
        again.seal()
        assert {path.name for path in staging.folder.iterdir()} == {CONFIG, WEIGHTS}
        builder.manifest(staging.folder)


def test_seal_wants_the_declared_bytes(store: LocalStore, builder: Any, tmp_path: Path) -> None:
    folder = builder.folder()
    staging = store.stage(builder.specs(folder), LIMIT)
    staging.write(CONFIG, 0, (folder / CONFIG).read_bytes())
    staging.write(WEIGHTS, 0, bytes((folder / WEIGHTS).stat().st_size))
    with pytest.raises(ChecksumMismatch, match=WEIGHTS):
        staging.seal()
    assert staged(tmp_path) == []


def test_short_writes_are_finished(store: LocalStore, builder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:3]))
    folder = builder.folder()
    with builder.stage(store, folder) as staging:
        assert (staging.folder / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "open"])
@pytest.mark.parametrize("code", [28, 5, 30, 122])
def test_a_failing_disk(
    store: LocalStore, builder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    folder = builder.folder()
    specs, data = builder.specs(folder), {name: (folder / name).read_bytes() for name in (CONFIG, WEIGHTS)}

    real = getattr(os, call)

    def fail(*args: Any, **kwargs: Any) -> Any:
        if call == "open" and not args[1] & os.O_CREAT:
            return real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(StoreUnavailable, match="retry"):
            staging = store.stage(specs, LIMIT)
            for name, content in data.items():
                staging.write(name, 0, content)
            staging.seal()
        patch.undo()
    store.stage(specs, LIMIT).discard()
    assert staged(tmp_path) == []
