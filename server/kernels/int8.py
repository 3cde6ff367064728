"""Linears over int8 weights: one scale for each row, as bitsandbytes' LLM.int8 stores them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels import bnb
from server.kernels.lora import Update, updated


@dataclass(frozen=True)
class Int8Weight:
    """codes: [out, in] int8. absmax: [out] float32, the largest magnitude of each row."""

    codes: Tensor
    absmax: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1]

    def linear(self, x: Tensor, bias: Tensor | None, update: Update | None = None) -> Tensor:
        """x [tokens, in] -> [tokens, out]; activations stay in x's dtype, only the weight is rounded."""
        return updated(F.linear(x, self.dequantize(x.dtype), bias), x, update)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[out, in]: code * absmax / 127, multiplied in float32."""
        return (self.codes * (self.absmax / 127).unsqueeze(-1)).to(dtype)


def quantize(weight: Tensor) -> Int8Weight:
    """weight [out, in] -> int8; bitsandbytes rounds from float16."""
    codes, absmax, _ = bnb.functional().int8_vectorwise_quant(weight.to(torch.float16).contiguous())
    return Int8Weight(codes, absmax.float().view(-1))


def concatenate(parts: list[Int8Weight]) -> Int8Weight:
    return Int8Weight(torch.cat([p.codes for p in parts]), torch.cat([p.absmax for p in parts]))
