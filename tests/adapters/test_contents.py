"""A file's bytes are what its sha256 names, however often and however fast they are read."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.contents import Contents, Proofs, read_proven
from adapters.errors import InvalidAdapter
from adapters.manifest import FileSpec

CONTENT = bytes(range(256)) * 33 + b"end"


@pytest.fixture
def hashers() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def write(path: Path, content: bytes = CONTENT) -> FileSpec:
    path.write_bytes(content)
    return FileSpec(path.name, len(content), hashlib.sha256(content).hexdigest())


def read(contents: Contents, path: Path, spec: FileSpec) -> bytes:
    content = bytes(contents.read(path, spec))
    contents.prove()
    return content


def test_bytes_are_the_files_and_the_memory_is_used_again(
    tmp_path: Path, hashers: ThreadPoolExecutor
) -> None:
    spec, small = write(tmp_path / "a"), write(tmp_path / "b", b"small")
    contents = Contents(Proofs(), hashers)
    first, second = contents.read(tmp_path / "a", spec), contents.read(tmp_path / "b", small)
    assert bytes(first) == CONTENT and bytes(second) == b"small"
    contents.prove()
    memory = contents._memory
    assert len(memory) > len(CONTENT)
    assert read(contents, tmp_path / "a", spec) == CONTENT and contents._memory is memory


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x", b""])
def test_what_is_not_what_the_spec_names_is_refused(
    content: bytes, tmp_path: Path, hashers: ThreadPoolExecutor
) -> None:
    spec = write(tmp_path / "a")
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InvalidAdapter, match="changed on disk"):
        read(Contents(Proofs(), hashers), tmp_path / "a", spec)
    with pytest.raises(InvalidAdapter, match="changed on disk"):
        read_proven(tmp_path / "a", spec)


def test_an_unchanged_file_is_hashed_once_and_a_turned_bit_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.contents.SETTLED_SECONDS", -1.0)
    spec, proofs = write(tmp_path / "a"), Proofs()
    content, before = np.frombuffer(CONTENT, dtype=np.uint8).copy(), os.stat(tmp_path / "a")
    hashed: list[int] = []
    sha256 = hashlib.sha256

    def count(content: memoryview) -> Any:
        hashed.append(len(content))
        return sha256(content)

    monkeypatch.setattr("adapters.contents.hashlib.sha256", count)
    assert [proofs.holds(spec, content, before) for _ in range(3)] == [True] * 3 and len(hashed) == 1
    for at in (0, 4000, len(CONTENT) - 1):
        content[at] ^= 4
        assert not proofs.holds(spec, content, before), "a bit that a failing disk turned over was not found"
        content[at] ^= 4
    hashed.clear()
    os.utime(tmp_path / "a", ns=(0, 0))
    assert proofs.holds(spec, content, os.stat(tmp_path / "a")) and hashed == [len(CONTENT)]


def test_a_file_that_was_changed_just_now_is_hashed_again(
    tmp_path: Path, hashers: ThreadPoolExecutor
) -> None:
    spec, proofs = write(tmp_path / "a"), Proofs()
    assert read(Contents(proofs, hashers), tmp_path / "a", spec) == CONTENT
    assert proofs._proofs == {}
