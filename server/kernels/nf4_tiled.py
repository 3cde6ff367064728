"""NF4 weights laid out for the tensor cores, and the kernels that multiply by them (CUDA, bf16, sm_80 on)."""

import ctypes
import math
from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels.fused_cuda import silu_mul
from server.kernels.lora import Update, updated
from server.kernels.lora_shrink import UpdateArguments, shrink, update_arguments
from server.kernels.nf4 import BLOCK, Nf4Weight
from server.kernels.nf4_layout import TILE, in_turns, tile, tile_scales
from server.kernels.nf4_plans import dequantize_kernel, most_rows, num_processors, plan_of
from server.kernels.slot_update import SlotUpdate
from server.kernels.tiles import DECODE_ROWS

# Up to this many tokens the fused kernels, launched for some at a time, are faster than a library's matmul
# over dequantized weights (`lorikeet loadtest kernels` measures it).
FUSED_UP_TO = 192


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
    # Zeros between launches: by these, blocks that split K know that all have come.
    counters: Tensor
    # Whether the linear is gate and up, whose tiles then stand in turns.
    pairs: bool = False

    @classmethod
    def of(cls, weight: Nf4Weight, pairs: bool = False) -> "TiledNf4Weight":
        rows, width = weight.shape
        gain = 2.0 ** (math.frexp(float(weight.absmax.max()) or 1.0)[1] - 15)
        counters = torch.zeros(2 * num_processors(), dtype=torch.int32, device=weight.codes.device)
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
        arguments = _DequantizeArguments(out.data_ptr(), self._arguments(None), rows, width)
        blocks = min(rows // TILE * (width // BLOCK) // 8 + 1, 8 * num_processors())
        dequantize_kernel(self.pairs).launch((blocks, 1, 1), arguments)
        return out.to(dtype)

    def _fused(
        self, y: Tensor, x: Tensor, bias: Tensor | None, update: SlotUpdate | None, gated: bool = False
    ) -> None:
        tokens, (rows, width) = x.shape[0], self.shape
        t = None if update is None else shrink(x, update)
        plan = plan_of(tokens, rows, width, self.pairs)
        sums = x.new_empty(plan.sums, dtype=torch.float32) if plan.splits > 1 else None
        # After the shrink kernel x has long been written: only what it wrote must be waited for.
        arguments = _LinearArguments(
            self._arguments(bias),
            x.data_ptr(),
            y.data_ptr(),
            update_arguments(update, t),
            self._exchange(sums),
            tokens,
            rows,
            width,
            t is not None,
            gated,
        )
        plan.kernel().launch((plan.splits, plan.columns, 1), arguments)

    def _exchange(self, sums: Tensor | None) -> "_ExchangeArguments":
        if sums is None:
            return _ExchangeArguments()
        return _ExchangeArguments(sums.data_ptr(), self.counters.data_ptr())

    def _arguments(self, bias: Tensor | None) -> "_WeightArguments":
        return _WeightArguments(
            self.codes.data_ptr(),
            self.scales.data_ptr(),
            None if bias is None else bias.data_ptr(),
            self.gain,
        )


class _WeightArguments(ctypes.Structure):
    _fields_ = [
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("gain", ctypes.c_float),
    ]


class _ExchangeArguments(ctypes.Structure):
    _fields_ = [("sums", ctypes.c_void_p), ("counters", ctypes.c_void_p)]


class _LinearArguments(ctypes.Structure):
    _fields_ = [
        ("weights", _WeightArguments),
        ("x", ctypes.c_void_p),
        ("y", ctypes.c_void_p),
        ("update", UpdateArguments),
        ("exchange", _ExchangeArguments),
        ("tokens", ctypes.c_int),
        ("rows", ctypes.c_int),
        ("width", ctypes.c_int),
        ("x_is_ready", ctypes.c_int),
        ("gated", ctypes.c_int),
    ]


class _DequantizeArguments(ctypes.Structure):
    _fields_ = [
        ("out", ctypes.c_void_p),
        ("weights", _WeightArguments),
        ("rows", ctypes.c_int),
        ("width", ctypes.c_int),
    ]
