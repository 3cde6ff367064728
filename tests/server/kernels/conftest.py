"""Kernels' host code without a device."""

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def tiled(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """server.kernels.tiled, importable also where CUDA's bindings are not installed."""
    before = set(sys.modules)
    bindings = ModuleType("cuda.bindings")
    bindings.driver = bindings.nvrtc = ModuleType("none")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    from server.kernels import tiled

    yield tiled
    for name in set(sys.modules) - before:
        del sys.modules[name]
