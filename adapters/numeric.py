"""The largest magnitude in a tensor, from its raw bits: no float conversion, no torch, bfloat16 included.

With the sign bit cleared, IEEE floats order like unsigned integers, and infinities and NaNs come last. One
integer maximum therefore answers both "how large" and "all finite".
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from adapters.files import chunks
from adapters.header import TensorInfo

# dtype -> (bits of one item, everything but the sign, the bit pattern of infinity)
_LAYOUT: dict[str, tuple[str, int, int]] = {
    "F32": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "F16": ("<u2", 0x7FFF, 0x7C00),
    "BF16": ("<u2", 0x7FFF, 0x7F80),
}


def max_magnitude(fd: int, info: TensorInfo) -> float:
    """max |x| of the tensor in the open file `fd`; NaN if any item is infinite or not a number."""
    bits, mask, infinity = _LAYOUT[info.dtype]
    largest = 0
    for chunk in chunks(fd, info.start, info.end):
        items: Any = np.frombuffer(chunk, dtype=bits)
        largest = max(largest, int(np.bitwise_and(items, items.dtype.type(mask)).max()))
    return math.nan if largest >= infinity else _value(largest, info.dtype)


def _value(bits: int, dtype: str) -> float:
    if dtype == "F16":
        return float(np.array([bits], dtype="<u2").view("<f2")[0])
    # bfloat16 is the upper half of a float32.
    wide = bits << 16 if dtype == "BF16" else bits
    return float(np.array([wide], dtype="<u4").view("<f4")[0])
