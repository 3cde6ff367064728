"""Linears over NF4 weights: bitsandbytes' bytes, multiplied by plain torch.

bitsandbytes is imported where a weight is made: an unquantized base need not wait the seconds it takes.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels import bnb
from server.kernels.lora import Update, updated

BLOCK = 64


@dataclass(frozen=True)
class Nf4Weight:
    """A linear's weight as bitsandbytes packs it, row-major, high nibble first.

    codes: [out, in / 2] uint8, two 4-bit indices into the codebook each.
    absmax: [out, in / 64] float32, one scale for each block of 64 along a row.
    """

    codes: Tensor
    absmax: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.codes.shape[0], self.codes.shape[1] * 2

    def linear(self, x: Tensor, bias: Tensor | None, update: Update | None = None) -> Tensor:
        """x [tokens, in] -> [tokens, out], in x's dtype."""
        return updated(F.linear(x, self.dequantize(x.dtype), bias), x, update)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[out, in]: codebook[code] * absmax."""
        codes, absmax = self.codes.view(-1, 1), self.absmax.view(-1)
        weight: Tensor = torch.ops.bitsandbytes.dequantize_4bit(
            codes, absmax, BLOCK, "nf4", self.shape, dtype
        )
        return weight


def quantize(weight: Tensor, double_quant: bool) -> Nf4Weight:
    """weight [out, in] -> NF4. With double_quant the scales lose what 8 bits cannot hold, as in QLoRA."""
    packed, state = bnb.functional().quantize_4bit(
        weight.contiguous(), blocksize=BLOCK, compress_statistics=double_quant, quant_type="nf4"
    )
    return from_state(packed, state, weight.shape[0])


def from_state(packed: Tensor, state: Any, rows: int) -> Nf4Weight:
    """From what bitsandbytes holds, a QuantState; nested scales are resolved to float32 once."""
    absmax = state.absmax
    if state.nested:
        absmax = bnb.functional().dequantize_blockwise(absmax, state.state2) + state.offset
    # Some training stores the same bytes under a float dtype.
    return Nf4Weight(packed.view(torch.uint8).view(rows, -1), absmax.float().view(rows, -1))


def concatenate(parts: list[Nf4Weight]) -> Nf4Weight:
    """Stacks rows; exact because blocks never cross a row."""
    return Nf4Weight(torch.cat([p.codes for p in parts]), torch.cat([p.absmax for p in parts]))
