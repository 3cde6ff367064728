"""NF4 weights laid out for the tensor cores, and the kernels that multiply by them (CUDA, bf16, sm_80 on)."""

import math
from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels.fused_cuda import silu_mul
from server.kernels.lora import Update, updated
from server.kernels.nf4 import BLOCK, Nf4Weight
from server.kernels.nf4_arguments import (
    DequantizeArguments,
    ExchangeArguments,
    LinearArguments,
    UpdateArguments,
    WeightArguments,
)
from server.kernels.nf4_layout import TILE, in_turns, tile, tile_scales
from server.kernels.nf4_plans import dequantize_kernel, most_rows, num_processors, plan_of
from server.kernels.slot_update import SlotUpdate

# Up to this many tokens the fused kernels, launched for some at a time, are faster than a library's matmul
# over dequantized weights (`lorikeet loadtest kernels` measures it).
FUSED_UP_TO = 192
# Tiles of at most so many tokens are the shrink kernel's.
DECODE_ROWS = 8


@dataclass(frozen=True)
class TiledNf4Weight:
    """The codes of an Nf4Weight in the order in which the kernels' lanes take them.

    codes: [out / 16, in / 64, 32 lanes, 16] uint8. Lane 4 g + t holds four bytes for each of four steps of 16
    columns; byte (half, row) of step q has rows g + 8 row, columns 16 q + 8 half + 2 t (low nibble) and + 1.
    scales: [out / 16, in / 256 rounded up, 8, 4, 2] float16: of lane g, four groups, rows g and g + 8, in
    units of `gain`, a power of two.
    """

    codes: Tensor
    scales: Tensor
    gain: float
    shape: tuple[int, int]
    # Zeros between launches: by these, blocks that wait for each other know that all have come.
    counters: Tensor
    # Whether the linear is gate and up, whose tiles then stand in turns.
    pairs: bool = False

    @classmethod
    def of(cls, weight: Nf4Weight, pairs: bool = False) -> "TiledNf4Weight":
        rows, width = weight.shape
        gain = 2.0 ** (math.frexp(float(weight.absmax.max()) or 1.0)[1] - 15)
        counters = torch.zeros(2 * num_processors() + 2, dtype=torch.int32, device=weight.codes.device)
        codes, scales = tile(weight.codes), tile_scales(weight.absmax / gain)
        if pairs:
            codes, scales = in_turns(codes), in_turns(scales)
        return cls(codes, scales, gain, (rows, width), counters, pairs)

    @staticmethod
    def fits(weight: Nf4Weight, pairs: bool = False) -> bool:
        """Whether the weight is made of whole tiles."""
        return weight.shape[0] % (2 * TILE if pairs else TILE) == 0

    def linear(self, x: Tensor, bias: Tensor | None, update: Update | None = None) -> Tensor:
        """x [tokens, in] bf16 -> [tokens, out], the adapters' update added before the one rounding."""
        tokens = x.shape[0]
        if tokens > FUSED_UP_TO:
            return updated(F.linear(x, self.dequantize(x.dtype), bias), x, update)
        x, y = x.contiguous(), x.new_empty(tokens, self.shape[0])
        if self._takes(update, tokens):
            self._fused(y, x, bias, update)
            return y
        for rows, out in zip(x.split(most_rows()), y.split(most_rows()), strict=True):
            self._fused(out, rows, bias, None)
        return updated(y, x, update)

    def gated(self, x: Tensor, bias: Tensor | None, update: Update | None = None) -> Tensor:
        """x [tokens, in] -> silu(gate) * up [tokens, out / 2]."""
        if not self.pairs or not self._takes(update, x.shape[0]):
            return silu_mul(self.linear(x, bias, update))
        y = x.new_empty(x.shape[0], self.shape[0] // 2)
        self._fused(y, x.contiguous(), bias, update, gated=True)
        return y

    @staticmethod
    def _takes(update: Update | None, tokens: int) -> TypeGuard[SlotUpdate | None]:
        """Whether one launch does it all."""
        is_decode = isinstance(update, SlotUpdate) and update.batch.tile_rows == DECODE_ROWS
        return tokens <= most_rows() and (update is None or is_decode)

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[out, in] bf16."""
        out = torch.empty(self.shape, dtype=torch.bfloat16, device=self.codes.device)
        rows, width = self.shape
        arguments = DequantizeArguments(out.data_ptr(), self._arguments(None), rows, width)
        blocks = min(rows // TILE * (width // BLOCK) // 8 + 1, 8 * num_processors())
        dequantize_kernel(self.pairs).launch((blocks, 1, 1), arguments)
        return out.to(dtype)

    def _fused(
        self, y: Tensor, x: Tensor, bias: Tensor | None, update: SlotUpdate | None, gated: bool = False
    ) -> None:
        tokens, (rows, width) = x.shape[0], self.shape
        plan = plan_of(tokens, rows, width, self.pairs, update is not None)
        sums = x.new_empty(plan.sums, dtype=torch.float32) if plan.splits > 1 else None
        t = None
        if update is not None:
            shares = plan.shares(update.batch.tiles.shape[0] * len(update.parts), width)
            shape = (shares, tokens, len(update.parts), -(-update.memory.max_rank // 8) * 8)
            t = torch.empty(shape, dtype=torch.float32, device=x.device)
        arguments = LinearArguments(
            self._arguments(bias),
            x.data_ptr(),
            y.data_ptr(),
            UpdateArguments.of(update, t, self.counters[-2:]),
            self._exchange(sums),
            tokens,
            rows,
            width,
            gated,
        )
        plan.kernel().launch((plan.splits, plan.columns, 1), arguments)

    def _exchange(self, sums: Tensor | None) -> "ExchangeArguments":
        if sums is None:
            return ExchangeArguments()
        return ExchangeArguments(sums.data_ptr(), self.counters.data_ptr())

    def _arguments(self, bias: Tensor | None) -> "WeightArguments":
        return WeightArguments(
            self.codes.data_ptr(),
            self.scales.data_ptr(),
            None if bias is None else bias.data_ptr(),
            self.gain,
        )
