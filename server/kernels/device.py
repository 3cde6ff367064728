"""What the device can do."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch


@cache
def can_begin_early(device: torch.device) -> bool:
    """Whether a kernel may be launched while the one before it ends, and then waits for it by itself."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@dataclass(frozen=True)
class Processors:
    """Of a CUDA device. shared_bytes: that a block may have. has_wgmma: only the ninth generation does."""

    count: int
    shared_bytes: int
    has_wgmma: bool


@cache
def processors() -> Processors:
    """The current device's."""
    found: Any = torch.cuda.get_device_properties()
    return Processors(found.multi_processor_count, found.shared_memory_per_block_optin, found.major == 9)
