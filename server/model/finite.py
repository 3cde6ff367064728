"""Whether every number is finite, faster than torch says it: an adapter is looked through at each read."""

import torch
from torch import Tensor

# dtype -> (an integer of its size, everything but the sign, the bit pattern of infinity)
_BITS = {
    torch.float32: (torch.int32, 0x7FFF_FFFF, 0x7F80_0000),
    torch.float16: (torch.int16, 0x7FFF, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7FFF, 0x7F80),
}
# Elements; small enough for a core's cache.
_PART = 1 << 18


def is_finite(tensor: Tensor) -> bool:
    """By the bits: with the sign cleared, infinities and NaNs are the largest integers."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    integer, magnitude, infinity = _BITS[tensor.dtype]
    rows = max(1, _PART * len(tensor) // tensor.numel())
    return all(int((part & magnitude).max()) < infinity for part in tensor.view(integer).split(rows))
