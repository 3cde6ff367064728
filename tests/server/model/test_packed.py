"""A packed adapter is the blob that was packed, or none."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig

from adapters.contents import Proofs
from server.model.adapter import AdapterBlob
from server.model.blob import make_blob
from server.model.config import ModelConfig
from server.model.packed import key_of, read_packed, write_packed
from tests.changes import KINDS, weights_of
from tests.toys import SMALL

CONFIG = ModelConfig.from_hf(LlamaConfig(**SMALL))
KEY = key_of("manifest", "base")


def read(path: Path, dtype: torch.dtype, key: str = KEY) -> AdapterBlob | None:
    return read_packed(path, key, dtype, lambda size, dtype: torch.full((size,), 7, dtype=dtype), Proofs())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_read_is_what_was_packed(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    blob = make_blob(weights_of(kind, CONFIG), CONFIG, dtype)
    write_packed(tmp_path / "a", KEY, blob)
    found = read(tmp_path / "a", dtype)
    assert found is not None and torch.equal(found.flat.view(torch.uint8), blob.flat.view(torch.uint8))
    assert (found.pairs, found.vectors, found.tables) == (blob.pairs, blob.vectors, blob.tables)
    assert found.vocab_size == blob.vocab_size
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_nothing_is_found_that_was_made_of_something_else(tmp_path: Path) -> None:
    blob = make_blob(weights_of("pair", CONFIG), CONFIG, torch.float32)
    assert read(tmp_path / "a", torch.float32) is None
    write_packed(tmp_path / "a", KEY, blob)
    assert read(tmp_path / "a", torch.float32, key_of("manifest", "another base")) is None
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert read(tmp_path / "b", torch.float32) is None


def test_no_byte_can_change_and_no_length_either(tmp_path: Path) -> None:
    write_packed(tmp_path / "a", KEY, make_blob(weights_of("pair", CONFIG), CONFIG, torch.float32))
    whole = (tmp_path / "a").read_bytes()
    ends = [*range(60), *range(60, len(whole) - 2000, 997), *range(len(whole) - 2000, len(whole), 13)]
    for at in [*ends, *range(len(whole) - 41, len(whole))]:
        (tmp_path / "a").write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert read(tmp_path / "a", torch.float32) is None, (
            f"byte {at} of {len(whole)} was turned over unseen"
        )
    for torn in (b"", whole[:30], whole[: len(whole) // 2], whole[:-1], whole + b"\0", bytes(len(whole))):
        (tmp_path / "a").write_bytes(torn)
        assert read(tmp_path / "a", torch.float32) is None


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = make_blob(weights_of("pair", CONFIG), CONFIG, torch.float32)
    write_packed(tmp_path / "a", KEY, blob)

    def full(fd: int, data: Tensor) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.model.packed.write_all", full)
    with pytest.raises(OSError, match="No space"):
        write_packed(tmp_path / "a", KEY, blob)
    assert read(tmp_path / "a", torch.float32) is not None
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
