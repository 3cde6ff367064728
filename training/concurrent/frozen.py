"""The base's weights as they are held while adapters train: never written, dense only while multiplied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from server.kernels import int8, nf4


class Frozen(Protocol):
    """A weight [out, in] that can be had dense."""

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[out, in]."""


@dataclass(frozen=True)
class Dense:
    """A weight that is not quantized."""

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.weight.shape[0], self.weight.shape[1]

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return self.weight if self.weight.dtype == dtype else self.weight.to(dtype)


def freeze(linear: nn.Linear, quantization: str) -> Frozen:
    """The weight of `linear`: bitsandbytes' codes as they stand, or quantized to 8 bits here."""
    weight: Any = linear.weight
    if getattr(weight, "quant_state", None) is not None:
        return nf4.from_state(weight.data, weight.quant_state, linear.out_features)
    dense = weight.detach()
    return int8.quantize(dense) if quantization == "int8" else Dense(dense)
