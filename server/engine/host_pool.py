"""Host memory for adapters, of a fixed size. Page-locked where a device copies from it.

Locking pages anew costs milliseconds for each adapter, so it is done once, at start.
"""

import mmap
import weakref
from typing import Protocol

import torch
from torch import Tensor

from server.engine.arena import Extents

# Bytes; an adapter begins at a multiple.
UNIT = 4096


class HostPool(Protocol):
    """For one caller at a time."""

    def take(self, num_elements: int, dtype: torch.dtype) -> Tensor | None:
        """None: no room."""

    def take_more(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        """Beyond the size: slower, and only while it is in use."""

    def give_back(self, tensor: Tensor) -> None:
        """What either gave; nobody may look at it any more."""


class PlainPool:
    """Counts bytes, and leaves where they stand to the allocator."""

    def __init__(self, num_bytes: int) -> None:
        self._num_free = num_bytes
        self._taken: dict[int, int] = {}

    def take(self, num_elements: int, dtype: torch.dtype) -> Tensor | None:
        num_bytes = num_elements * dtype.itemsize
        if num_bytes > self._num_free:
            return None
        tensor = self.take_more(num_elements, dtype)
        self._num_free -= num_bytes
        self._taken[tensor.data_ptr()] = num_bytes
        return tensor

    def take_more(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(num_elements, dtype=dtype)

    def give_back(self, tensor: Tensor) -> None:
        self._num_free += self._taken.pop(tensor.data_ptr(), 0)


class PinnedPool:
    """One page-locked stretch, cut into extents."""

    def __init__(self, num_bytes: int, lock_pages: bool = True) -> None:
        self._extents = Extents(num_bytes // UNIT)
        self._memory = torch.frombuffer(_map(max(num_bytes, UNIT)), dtype=torch.uint8)
        self._taken: dict[int, tuple[int, int]] = {}
        self._locks_pages = lock_pages
        if lock_pages:
            _lock_pages(self._memory)
            # The next pool may stand at the same addresses. At exit the device's driver may have gone before.
            weakref.finalize(self, _unlock_pages, self._memory).atexit = False

    def take(self, num_elements: int, dtype: torch.dtype) -> Tensor | None:
        num_bytes = num_elements * dtype.itemsize
        length = -(-num_bytes // UNIT)
        starts = self._extents.take([length])
        if starts is None:
            return None
        tensor = self._memory[starts[0] * UNIT :][:num_bytes].view(dtype)
        self._taken[tensor.data_ptr()] = (starts[0], length)
        return tensor

    def take_more(self, num_elements: int, dtype: torch.dtype) -> Tensor:
        return torch.empty(num_elements, dtype=dtype, pin_memory=self._locks_pages)

    def give_back(self, tensor: Tensor) -> None:
        taken = self._taken.pop(tensor.data_ptr(), None)
        if taken is not None:
            self._extents.give_back(*taken)


def _map(num_bytes: int) -> mmap.mmap:
    memory = mmap.mmap(-1, num_bytes)
    # Large pages are locked in a fraction of the time.
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memory


def _lock_pages(memory: Tensor) -> None:
    """Raises ValueError with a sentence for the operator."""
    cudart = torch.cuda.cudart()
    error = cudart.cudaHostRegister(memory.data_ptr(), memory.numel(), 0)
    if int(error):
        raise ValueError(
            f"the system does not let {memory.numel()} bytes of host memory be page-locked"
            f" ({cudart.cudaGetErrorString(error)}); give --host-cache-bytes less"
        )


def _unlock_pages(memory: Tensor) -> None:
    torch.cuda.cudart().cudaHostUnregister(memory.data_ptr())
