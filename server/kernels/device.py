"""What the device can do."""

from functools import cache

import torch


@cache
def can_begin_early(device: torch.device) -> bool:
    """Whether a kernel may be launched while the one before it ends, and then waits for it by itself."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
