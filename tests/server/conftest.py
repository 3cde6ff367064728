"""Tiny bases of every family, and adapters of every kind in a store."""

import asyncio
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.toys import FAMILIES, make_adapter, make_base, store_adapter
from tests.warm import Process, Request, Starter

ADAPTERS: dict[str, dict[str, Any]] = {
    "rank4": {"r": 4},
    "rank8-rs": {"r": 8, "use_rslora": True},
    "rank16-patterns": {
        "r": 16,
        "rank_pattern": {"q_proj": 3, "layers.1.mlp.down_proj": 5},
        "alpha_pattern": {"v_proj": 2},
    },
    "rank64-regex": {"r": 64, "target_modules": r".*\.(q|v)_proj"},
    "layer1-only": {"r": 8, "target_modules": ["up_proj", "o_proj"], "layers_to_transform": [1]},
}


@dataclass(frozen=True)
class Zoo:
    """A base, its adapters as PEFT folders, and a store that holds them."""

    base: Path
    store: Path
    folders: dict[str, Path]
    digests: dict[str, str]

    def oracle(self, adapter: str) -> Any:
        """transformers, with PEFT's adapter on top; "" for the base alone."""
        model = AutoModelForCausalLM.from_pretrained(self.base)
        return (PeftModel.from_pretrained(model, self.folders[adapter]) if adapter else model).eval()


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: make_base(tmp_path_factory.mktemp(f"base-{family}"), family) for family in FAMILIES}


@pytest.fixture(scope="session")
def zoo(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    base, root = bases["llama"], tmp_path_factory.mktemp("zoo")
    folders = {
        name: make_adapter(base, root / name, seed=seed, **options)
        for seed, (name, options) in enumerate(ADAPTERS.items(), 1)
    }
    digests = {name: store_adapter(root / "store", base, folder, name) for name, folder in folders.items()}
    return Zoo(base, root / "store", folders, {"": "", **digests})


@pytest.fixture
def warm_engines(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Engines of this process start without importing torch anew, and end with the test at the latest."""
    with ExitStack() as pipes:

        async def spawn(module: str, folder: Path, stdin: int) -> Process:
            request = Request(module, [str(folder)], os.getcwd(), dict(os.environ), [module])
            reader, writer = os.pipe()
            with open(reader, "rb") as input:
                process = await asyncio.to_thread(starter.start, request, (input.fileno(), 1, 2))
            process.stdin = pipes.enter_context(open(writer, "wb", buffering=0))
            return process

        monkeypatch.setattr("server.spawn.spawn", spawn)
        yield


@pytest.fixture
def no_bindings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is built on CUDA's bindings can be imported also where they are not installed."""
    before = set(sys.modules)
    bindings = ModuleType("cuda.bindings")
    bindings.driver = bindings.nvrtc = ModuleType("none")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    yield
    for name in set(sys.modules) - before:
        del sys.modules[name]
