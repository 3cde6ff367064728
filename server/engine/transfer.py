"""One asynchronous copy to the device for each step."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Transfers:
    """Two pinned arrays in turn: a step's copy may be under way while the next one is written."""

    def __init__(self, num_ints: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._hosts = [torch.empty(num_ints, dtype=torch.int32, pin_memory=pinned) for _ in range(2)]
        self._done = [torch.cuda.Event() if pinned else None for _ in range(2)]
        self._device = torch.zeros(num_ints, dtype=torch.int32, device=device)
        self._turn = 0

    @property
    def array(self) -> Tensor:
        """[ints] where every step's ints arrive, on the device."""
        return self._device

    def send(self, ints: NDArray[np.int32]) -> Tensor:
        """The device's copy of `ints`, at the beginning of `array`."""
        self._turn ^= 1
        host, done = self._hosts[self._turn], self._done[self._turn]
        if done is not None:
            done.synchronize()
        count = len(ints)
        host[:count] = torch.from_numpy(ints)
        self._device[:count].copy_(host[:count], non_blocking=True)
        if done is not None:
            done.record()
        return self._device[:count]
