"""Builders of small adapters, good and bad, without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adapters import (
    CONFIG_NAME,
    FILE_NAMES,
    WEIGHTS_NAME,
    BaseShapes,
    FileSpec,
    LocalStore,
    Manifest,
    Staging,
    Store,
    inspect,
)
from tests.adapters.base import BASE, HIDDEN, INNER, RANK, load

Tensors = dict[str, Any]


def raw_file(header: object, data: bytes = b"") -> bytes:
    """A safetensors file with this header, given as bytes or as an object."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def safetensors_bytes(tensors: Tensors) -> bytes:
    """A file of numpy arrays; an array of uint16 is written as BF16."""
    names = {"float32": "F32", "float16": "F16", "uint16": "BF16"}
    header, data = {}, b""
    for name, array in tensors.items():
        content = array.tobytes()
        offsets = [len(data), len(data) + len(content)]
        header[name] = {"dtype": names[str(array.dtype)], "shape": list(array.shape), "data_offsets": offsets}
        data += content
    return raw_file(header, data)


def default_config() -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "v_proj"],
        "base_model_name_or_path": "tiny/llama",
    }


def default_tensors(seed: int = 0) -> Tensors:
    rng, tensors = np.random.default_rng(seed), {}
    for linear, (out_features, in_features) in BASE.linears.items():
        if linear.endswith(("q_proj", "v_proj")):
            for part, shape in (("A", (RANK, in_features)), ("B", (out_features, RANK))):
                tensors[f"base_model.model.{linear}.lora_{part}.weight"] = rng.normal(
                    0, 0.02, size=shape
                ).astype(np.float32)
    return tensors


class Builder:
    """Writes adapter folders and describes their files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._num_folders = 0

    def folder(self, config: object = None, tensors: Tensors | None = None, seed: int = 0) -> Path:
        text = json.dumps(default_config() if config is None else config).encode()
        return self.raw(text, safetensors_bytes(default_tensors(seed) if tensors is None else tensors))

    def raw(self, config: bytes, weights: bytes) -> Path:
        self._num_folders += 1
        folder = self.root / f"adapter-{self._num_folders}"
        folder.mkdir()
        (folder / CONFIG_NAME).write_bytes(config)
        (folder / WEIGHTS_NAME).write_bytes(weights)
        return folder

    @staticmethod
    def specs(folder: Path) -> list[FileSpec]:
        contents = {name: (folder / name).read_bytes() for name in FILE_NAMES}
        return [
            FileSpec(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items()
        ]

    def stage(self, store: Store, folder: Path) -> Staging:
        """A sealed staging with the folder's files."""
        staging = store.stage(self.specs(folder), max_bytes=1 << 20)
        for name in FILE_NAMES:
            staging.write(name, 0, (folder / name).read_bytes())
        staging.seal()
        return staging

    def manifest(self, folder: Path) -> Manifest:
        return inspect(folder, BASE, max_rank=64)

    load = staticmethod(load)

    def commit(self, store: Store, tenant: str, name: str, seed: int = 0) -> Any:
        folder = self.folder(seed=seed)
        return store.commit(self.stage(store, folder), tenant, name, self.manifest(folder))


@pytest.fixture(scope="session")
def base() -> BaseShapes:
    return BASE


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    root = tmp_path / "built"
    root.mkdir()
    return Builder(root)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    store = LocalStore(tmp_path / "store")
    yield store
    store.close()


@pytest.fixture
def reopen(store: LocalStore, tmp_path: Path) -> Callable[[], LocalStore]:
    stores = [store]

    def again() -> LocalStore:
        stores[-1].close()
        stores.append(LocalStore(tmp_path / "store"))
        return stores[-1]

    return again


@pytest.fixture(scope="session")
def make_raw() -> Callable[..., bytes]:
    return raw_file


@pytest.fixture(scope="session")
def pack() -> Callable[[Tensors], bytes]:
    return safetensors_bytes


@pytest.fixture
def config() -> dict[str, Any]:
    return default_config()


@pytest.fixture
def tensors() -> Tensors:
    return default_tensors()


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[[], Any]:
    """Makes tiny Llamas whose linears are exactly those of `base`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=32,
    )
    return lambda: LlamaForCausalLM(shape)


@pytest.fixture(scope="session")
def bucket_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a bucket service; skips where its package is not installed."""
    pytest.importorskip("moto.server")
    from tests.adapters import buckets

    with pytest.MonkeyPatch.context() as patch, buckets.serving(tmp_path_factory.mktemp("s3") / "log") as url:
        for key, value in buckets.KEYS.items():
            patch.setenv(key, value)
        yield url


@pytest.fixture
def bucket(bucket_service: str, tmp_path: Path) -> Iterator[Any]:
    """A fresh bucket."""
    from tests.adapters.buckets import Bucket

    bucket = Bucket(bucket_service, tmp_path)
    yield bucket
    bucket.close()


@pytest.fixture(params=["disk", "bucket"])
def stores(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Stores of one storage: the same one each time on a disk, another server's each time in a bucket."""
    if request.param == "bucket":
        yield request.getfixturevalue("bucket").store
        return
    store = LocalStore(tmp_path / "disk")
    yield lambda: store
    store.close()
