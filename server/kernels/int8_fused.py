"""int8 weights on a CUDA device in half precision: few rows are multiplied with the codes themselves."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels import int8_triton
from server.kernels.int8 import Int8Weight
from server.kernels.lora import Update, updated

# Rows up to which codes are multiplied without making a copy of the weight first.
FUSED_ROWS = int8_triton.MAX_ROWS


@dataclass(frozen=True)
class FusedInt8Weight(Int8Weight):
    """Scales are applied to the sums in float32: closer to codes * absmax / 127 than a rounded copy is."""

    @classmethod
    def of(cls, weight: Int8Weight) -> "FusedInt8Weight":
        return cls(weight.codes, weight.absmax)

    def linear(self, x: Tensor, bias: Tensor | None, update: Update | None = None) -> Tensor:
        """x [tokens, in] -> [tokens, out]."""
        if x.shape[0] <= FUSED_ROWS:
            y = int8_triton.linear(x, self.codes, self.absmax, bias)
        else:
            y = F.linear(x, self.dequantize(x.dtype), bias)
        return updated(y, x, update)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[out, in], bit for bit as the twin's."""
        return int8_triton.dequantize(self.codes, self.absmax, dtype)
