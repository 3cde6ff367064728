"""The update of a step whose adapters are found by slot, in device memory."""

from dataclasses import dataclass

from torch import Tensor

from server.kernels import lora_triton
from server.kernels.lora import AdapterMemory, Part, SlotBatch


@dataclass(frozen=True)
class SlotUpdate:
    """Of one layer's linear that is made of `parts`; needs a CUDA device."""

    memory: AdapterMemory
    batch: SlotBatch
    layer: int
    parts: tuple[Part, ...]

    @property
    def slot_stride(self) -> int:
        """Places from one slot to the next."""
        return self.memory.places.shape[1] * 7

    def add(self, y: Tensor, x: Tensor) -> None:
        """y [tokens, out] += the updates of x [tokens, in], in place; the base's tokens stay untouched."""
        lora_triton.lora_add(y, x, self.memory, self.batch, self.layer, self.parts)
