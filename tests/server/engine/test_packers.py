"""Adapters are packed in processes as on threads, and a process that is lost costs its work alone."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from adapters import LocalStore, inspect
from adapters.contents import Proofs
from adapters.errors import InvalidAdapter
from server.engine.maker import Maker
from server.engine.packers import NICENESS, Packers
from server.model.config import ModelConfig
from server.model.shapes import base_shapes
from tests.toys import make_adapter


def maker_of(base: Path, dtype: torch.dtype = torch.bfloat16) -> Maker:
    config = ModelConfig.from_hf(AutoConfig.from_pretrained(base))
    return Maker(config, base_shapes(config, "f" * 64), 256, dtype)


def require_gentle(nice: int) -> None:
    """Of its process: it gives way to others, and need not import what packing takes."""
    assert os.nice(0) == nice and "server.engine.maker" in sys.modules


def lose() -> None:
    os._exit(3)


def test_a_process_packs_what_a_thread_makes_and_survives_its_loss(zoo: Any, tmp_path: Path) -> None:
    folder, maker = make_adapter(zoo.base, tmp_path / "adapter", seed=61, r=4), maker_of(zoo.base)
    manifest = inspect(folder, maker.shapes, 256)
    packers = Packers(as_processes=True, likely=maker)
    with pytest.raises(OSError, match="was lost"):
        packers.run(lose)
    packers.run(require_gentle, min(19, os.nice(0) + NICENESS))
    packers.run(maker.pack, folder, manifest)
    made = maker.make(folder, manifest)
    found = maker.find(folder, manifest, lambda size, dtype: torch.empty(size, dtype=dtype), Proofs())
    assert found is not None and found.pairs == made.pairs and torch.equal(found.flat, made.flat)
    (folder / "adapter_model.safetensors").write_bytes(b"changed")
    with pytest.raises(InvalidAdapter, match="changed on disk"):
        packers.run(maker.pack, folder, manifest)


def test_what_is_packed_of_staged_files_is_what_is_packed_of_stored_ones(zoo: Any, tmp_path: Path) -> None:
    folder, maker = make_adapter(zoo.base, tmp_path / "adapter", seed=63, r=4), maker_of(zoo.base)
    manifest = inspect(folder, maker.shapes, 256)
    store = LocalStore(tmp_path / "store")
    staging = store.stage(manifest.files, 1 << 30)
    for file in manifest.files:
        staging.write(file.name, 0, (folder / file.name).read_bytes())
    staging.verify()
    maker.pack(staging.folder, manifest)
    staging.sync()
    stored = store.folder(store.commit(staging, "acme", "a", manifest).digest)
    (packed,) = (stored / "prepared").iterdir()
    content = packed.read_bytes()
    packed.unlink()
    maker.pack(stored, manifest)
    assert packed.read_bytes() == content
    store.close()


def test_of_another_base_dtype_or_rank_nothing_is_found(zoo: Any, tmp_path: Path) -> None:
    folder, maker = make_adapter(zoo.base, tmp_path / "adapter", seed=62, r=4), maker_of(zoo.base)
    manifest = inspect(folder, maker.shapes, 256)
    maker.pack(folder, manifest)

    def finds(maker: Maker) -> bool:
        size = torch.empty
        return maker.find(folder, manifest, lambda n, dtype: size(n, dtype=dtype), Proofs()) is not None

    assert finds(maker) and not finds(maker_of(zoo.base, torch.float32))
    assert not finds(Maker(maker.config, maker.shapes, 8, maker.dtype))
    assert not finds(Maker(maker.config, base_shapes(maker.config, "e" * 64), 256, maker.dtype))
