"""A file's bytes are what its sha256 names, however often and however fast they are read."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters.contents import Proofs, read_proven
from adapters.errors import InvalidAdapter
from adapters.files import open_regular
from adapters.manifest import FileSpec

CONTENT = bytes(range(256)) * 33 + b"end"


def write(path: Path, content: bytes = CONTENT) -> FileSpec:
    path.write_bytes(content)
    return FileSpec(path.name, len(content), hashlib.sha256(content).hexdigest())


def read(proofs: Proofs, path: Path, spec: FileSpec) -> bool:
    """Whether it was proven."""
    content = np.empty(spec.size, dtype=np.uint8)
    with open_regular(path) as fd:
        proven = proofs.read(fd, content, spec.sha256)
    assert not proven or content.tobytes() == CONTENT
    return proven


def test_bytes_are_the_files(tmp_path: Path) -> None:
    spec = write(tmp_path / "a")
    assert read(Proofs(), tmp_path / "a", spec) and bytes(read_proven(tmp_path / "a", spec)) == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT + b"x", CONTENT[:-1] + b"x", b""])
def test_what_is_not_what_the_spec_names_is_refused(content: bytes, tmp_path: Path) -> None:
    spec = write(tmp_path / "a")
    (tmp_path / "a").write_bytes(content)
    # Whether there is more in the file is for who knows how long it should be.
    assert read(Proofs(), tmp_path / "a", spec) == content.startswith(CONTENT)
    with pytest.raises(InvalidAdapter, match="changed on disk"):
        read_proven(tmp_path / "a", spec)


def turning(at: int) -> Callable[[int, list[memoryview], int], int]:
    """A disk that turns over a bit of this byte."""
    preadv = os.preadv

    def read(fd: int, buffers: list[memoryview], offset: int) -> int:
        num_read = preadv(fd, buffers, offset)
        if num_read:
            buffers[0][at - offset] ^= 4
        return num_read

    return read


def test_an_unchanged_file_is_hashed_once_and_a_turned_bit_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.contents.SETTLED_SECONDS", -1.0)
    spec, proofs = write(tmp_path / "a"), Proofs()
    hashed: list[int] = []
    sha256 = hashlib.sha256

    def count(content: memoryview) -> Any:
        hashed.append(len(content))
        return sha256(content)

    monkeypatch.setattr("adapters.contents.hashlib.sha256", count)
    assert [read(proofs, tmp_path / "a", spec) for _ in range(3)] == [True] * 3 and len(hashed) == 1
    for at in (0, 4000, len(CONTENT) - 1):
        with monkeypatch.context() as disk:
            disk.setattr("adapters.contents.os.preadv", turning(at))
            assert not read(proofs, tmp_path / "a", spec), "a bit that the disk turned over was not found"
    hashed.clear()
    os.utime(tmp_path / "a", ns=(0, 0))
    assert read(proofs, tmp_path / "a", spec) and hashed == [len(CONTENT)]


def test_a_file_that_was_changed_just_now_is_hashed_again(tmp_path: Path) -> None:
    spec, proofs = write(tmp_path / "a"), Proofs()
    assert read(proofs, tmp_path / "a", spec)
    assert proofs._proofs == {}
