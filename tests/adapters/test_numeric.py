from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from adapters.header import TensorInfo
from adapters.numeric import max_magnitude

BITS = {"F32": np.uint32, "F16": np.uint16, "BF16": np.uint16}


def measure(path: Path, dtype: str, items: np.ndarray) -> float:
    data = items.tobytes()
    path.write_bytes(b"xyz" + data)
    fd = os.open(path, os.O_RDONLY)
    try:
        return max_magnitude(fd, TensorInfo(dtype, (len(items),), 3, 3 + len(data)))
    finally:
        os.close(fd)


def test_the_largest_magnitude_is_exact_over_many_chunks(tmp_path: Path) -> None:
    items = np.random.default_rng(0).normal(size=600_001).astype(np.float32)
    items[-1] = -77.25
    assert measure(tmp_path / "f", "F32", items) == 77.25
    assert measure(tmp_path / "f", "F16", items.astype(np.float16)) == 77.25
    assert measure(tmp_path / "f", "BF16", (items.view(np.uint32) >> 16).astype(np.uint16)) == 77.0
    assert measure(tmp_path / "f", "F32", np.zeros(3, np.float32)) == 0.0


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [("F32", 0x7F800000), ("F32", 0xFF800000), ("F32", 0x7F800001), ("F32", 0xFFC00000)]
    + [
        ("F16", 0x7C00),
        ("F16", 0xFC00),
        ("F16", 0x7E00),
        ("BF16", 0x7F80),
        ("BF16", 0xFF80),
        ("BF16", 0xFFFF),
    ],
)
def test_every_kind_of_non_number_is_seen(tmp_path: Path, dtype: str, bits: int) -> None:
    items = np.zeros(300_000, BITS[dtype])
    items[-2] = bits
    assert math.isnan(measure(tmp_path / "f", dtype, items))
