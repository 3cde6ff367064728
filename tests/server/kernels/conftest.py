"""Kernels' host code without a device."""

from typing import Any

import pytest


@pytest.fixture
def tiled(no_bindings: None) -> Any:
    """server.kernels.tiled, importable also where CUDA's bindings are not installed."""
    from server.kernels import tiled

    return tiled
