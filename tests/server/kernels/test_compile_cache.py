"""Compiled kernels come from the disk only as they were written."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from server.kernels.compile_cache import cache_folder, cached


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "kernel.cubin"


class Compiler:
    def __init__(self, content: bytes = b"machine code") -> None:
        self.content = content
        self.runs = 0

    def __call__(self) -> bytes:
        self.runs += 1
        return self.content


def test_the_second_time_nothing_is_compiled(path: Path) -> None:
    compiler = Compiler()
    assert [cached(path, compiler) for _ in range(3)] == [b"machine code"] * 3
    assert compiler.runs == 1
    assert [file.name for file in path.parent.iterdir()] == ["kernel.cubin"]


def flip(path: Path) -> None:
    held = bytearray(path.read_bytes())
    held[-1] ^= 1
    path.write_bytes(held)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes()[:20]),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes() + b"\0"),
        lambda path: path.write_bytes(b"machine code"),
    ],
)
def test_what_was_changed_on_disk_is_compiled_again(path: Path, damage: Callable[[Path], object]) -> None:
    compiler = Compiler()
    cached(path, compiler)
    damage(path)
    assert cached(path, compiler) == b"machine code"
    assert compiler.runs == 2
    assert cached(path, compiler) == b"machine code"
    assert compiler.runs == 2


def test_a_disk_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    compiler = Compiler()
    assert [cached(tmp_path / "file" / "kernel", compiler) for _ in range(2)] == [b"machine code"] * 2
    assert compiler.runs == 2


def test_a_compiler_that_fails_leaves_nothing(path: Path) -> None:
    def fail() -> bytes:
        raise RuntimeError("does not compile")

    with pytest.raises(RuntimeError, match="does not compile"):
        cached(path, fail)
    assert not path.exists()


def test_the_folder_is_where_caches_belong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert str(cache_folder()) == "/caches/lorikeet/kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert str(cache_folder()) == os.path.expanduser("~/.cache/lorikeet/kernels")
