"""Quantized weights in tiles for the tensor cores, and products with them (CUDA, bf16, sm_80 and newer)."""

import ctypes
from dataclasses import dataclass
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels import lora_shrink
from server.kernels.background import Wanted
from server.kernels.device import processors
from server.kernels.formats import INT8, NF4, Format
from server.kernels.fused_cuda import silu_mul
from server.kernels.int8 import Int8Weight
from server.kernels.layout import GROUP, TILE, tiled_int8, tiled_nf4
from server.kernels.linear_kernels import dequantize_kernel, linear_kernel
from server.kernels.lora import Update, updated
from server.kernels.lora_shrink import UpdateArguments, shrink, update_arguments
from server.kernels.nf4 import Nf4Weight
from server.kernels.plans import fused_up_to, most_tokens, most_updates, plan_of, plans_of
from server.kernels.slot_update import SlotUpdate
from server.kernels.tiles import DECODE_ROWS


@dataclass(frozen=True)
class TiledWeight:
    """The codes of an Nf4Weight or an Int8Weight in the order in which the kernels' lanes take them.

    codes: [out / 16, in / 64, share, 32 lanes, 16] bytes, of lane 4 g + t.
    NF4, share 1: byte (step, half, row) has row g + 8 row, columns 16 step + 8 half + 2 t (low nibble), + 1.
    int8, share 2, two steps each: byte (step, half, column, row) has row g + 8 row and column
    16 step + 8 half + 2 t + column.
    scales: NF4: [out / 16, in / 256 rounded up, 8, 4, 2] float16, of lane g, four groups, rows g and g + 8,
    in units of `gain`, a power of two. int8: [out] float32, of the linear's own rows.
    """

    format: Format
    codes: Tensor
    scales: Tensor
    gain: float
    shape: tuple[int, int]
    # Zeros between launches: by these, blocks that split K know that all have come.
    counters: Tensor
    # Whether the linear is gate and up, whose tiles then stand in turns.
    pairs: bool = False

    @classmethod
    def of(cls, weight: Nf4Weight | Int8Weight, pairs: bool = False) -> "TiledWeight":
        if isinstance(weight, Nf4Weight):
            form, tiles = NF4, tiled_nf4(weight, pairs)
        else:
            form, tiles = INT8, tiled_int8(weight, pairs)
        counters = torch.zeros(2 * processors().count, dtype=torch.int32, device=weight.codes.device)
        return cls(form, *tiles, weight.shape, counters, pairs)

    @staticmethod
    def fits(weight: Nf4Weight | Int8Weight, pairs: bool = False) -> bool:
        """Whether the weight is made of whole tiles."""
        rows, width = weight.shape
        return rows % (2 * TILE if pairs else TILE) == 0 and width % GROUP == 0

    def foreseen(self, parts: int, max_rank: int) -> list[Wanted]:
        """The kernels that products with it, and with `parts` parts' updates, may ask for."""
        plans = plans_of(self.format, *self.shape, self.pairs, processors())
        wanted: list[Wanted] = [(linear_kernel, (plan,)) for plan in plans]
        wanted += lora_shrink.foreseen(self.shape[1], parts, max_rank, most_updates(processors()))
        return [*wanted, (dequantize_kernel, (self.format, self.pairs))]

    def linear(self, x: Tensor, bias: Tensor | None, update: Update | None = None) -> Tensor:
        """x [tokens, in] bf16 -> [tokens, out], the adapters' update added before the one rounding."""
        tokens = x.shape[0]
        if tokens > fused_up_to(self.format, processors()):
            return updated(F.linear(x, self.dequantize(x.dtype), bias), x, update)
        x, y = x.contiguous(), x.new_empty(tokens, self.shape[0])
        if self._takes(update, tokens):
            self._fused(y, x, bias, update)
            return y
        most = most_tokens(processors())
        for rows, out in zip(x.split(most), y.split(most), strict=True):
            self._fused(out, rows, bias, None)
        return updated(y, x, update)

    def gated(self, x: Tensor, bias: Tensor | None, update: Update | None = None) -> Tensor:
        """x [tokens, in] -> silu(gate) * up [tokens, out / 2]."""
        if not self.pairs or not self._takes(update, x.shape[0]):
            return silu_mul(self.linear(x, bias, update))
        y = x.new_empty(x.shape[0], self.shape[0] // 2)
        self._fused(y, x.contiguous(), bias, update, gated=True)
        return y

    def _takes(self, update: Update | None, tokens: int) -> TypeGuard[SlotUpdate | None]:
        """Whether one launch does it all."""
        if update is None:
            return tokens <= most_tokens(processors())
        is_decode = isinstance(update, SlotUpdate) and update.batch.tile_rows == DECODE_ROWS
        return is_decode and tokens <= most_updates(processors())

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """[out, in], rounded to bf16 once."""
        out = torch.empty(self.shape, dtype=torch.bfloat16, device=self.codes.device)
        rows, width = self.shape
        arguments = _DequantizeArguments(out.data_ptr(), self._arguments(None), rows, width)
        blocks = min(rows // TILE * (width // GROUP) // 8 + 1, 8 * processors().count)
        dequantize_kernel(self.format, self.pairs).launch((blocks, 1, 1), arguments)
        return out.to(dtype)

    def _fused(
        self, y: Tensor, x: Tensor, bias: Tensor | None, update: SlotUpdate | None, gated: bool = False
    ) -> None:
        tokens, (rows, width) = x.shape[0], self.shape
        t = None if update is None else shrink(x, update)
        plan = plan_of(self.format, tokens, rows, width, self.pairs, processors())
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
        linear_kernel(plan).launch((plan.splits, plan.columns, 1), arguments)

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
