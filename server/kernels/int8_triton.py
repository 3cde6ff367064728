"""Linears over int8 weights for CUDA devices: few rows without a copy of the weight, or that copy, fast.

    y[m, n] = (sum over k of x[m, k] * codes[n, k]) * absmax[n] / 127 + bias[n]

The sum is in float32 over codes that x's dtype holds exactly, so only y is rounded; `Int8Weight.dequantize`
rounds every weight instead, and the two differ by that.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from server.kernels.device import can_begin_early

# Rows up to which reading the codes costs more than multiplying them.
MAX_ROWS = 64
# Programs wanted at least: about one for each multiprocessor.
MIN_PROGRAMS = 120
FINISH_N = 256
DEQUANTIZE_N, DEQUANTIZE_K = 8, 1024


@dataclass(frozen=True)
class Plan:
    """How a product is cut: a program takes block_n rows of the weight and `span` of their columns.

    It takes block_k of them at a time, in `slices` that its warps multiply apart from each other: few rows
    make too few independent sums to keep the tensor cores busy otherwise. splits: programs of one row.
    """

    block_m: int
    block_n: int
    block_k: int
    slices: int
    splits: int
    span: int
    num_stages: int


def plan(rows: int, width_out: int, width_in: int) -> Plan:
    """Every program reads all of x, so more rows want wider blocks and then more splits."""
    block_m = 16 if rows <= 16 else 32 if rows <= 32 else 64
    is_wide = width_out >= MIN_PROGRAMS * 8 * block_m
    block_n = min(4 * block_m if is_wide else 2 * block_m, 128)
    block_k, slices = (256, 4) if block_m == 16 else (128, 1)
    programs, splits = triton.cdiv(width_out, block_n), 1
    while splits < 8 and programs * splits < MIN_PROGRAMS and width_in >= 4 * splits * block_k:
        splits *= 2
    span = triton.cdiv(triton.cdiv(width_in, splits), block_k) * block_k
    return Plan(block_m, block_n, block_k, slices, splits, span, {32: 6, 64: 4, 128: 3}[block_n])


def linear(x: Tensor, codes: Tensor, absmax: Tensor, bias: Tensor | None) -> Tensor:
    """x [tokens <= 64, in], codes [out, in] int8, absmax [out] float32 -> [tokens, out] in x's dtype."""
    rows, width_in = x.shape
    width_out = codes.shape[0]
    assert rows <= MAX_ROWS and codes.shape[1] == width_in
    assert codes.is_contiguous() and x.stride(1) == 1
    p, pdl = plan(rows, width_out, width_in), can_begin_early(x.device)
    y = torch.empty((rows, width_out), dtype=x.dtype, device=x.device)
    out = y
    if p.splits > 1:
        out = torch.empty((p.splits, rows, width_out), dtype=torch.float32, device=x.device)
    _multiply[(triton.cdiv(width_out, p.block_n), p.splits)](
        out, x, codes, absmax, bias, rows, width_out, width_in, x.stride(0), p.span,
        BLOCK_M=p.block_m, BLOCK_N=p.block_n, BLOCK_K=p.block_k, SLICES=p.slices, IS_SPLIT=p.splits > 1,
        PDL=pdl, num_warps=4, num_stages=p.num_stages, launch_pdl=pdl,
    )  # fmt: skip
    if p.splits > 1:
        _finish[(triton.cdiv(width_out, FINISH_N), rows)](
            y, out, absmax, bias, rows, width_out,
            SPLITS=p.splits, BLOCK_N=FINISH_N, PDL=pdl, num_warps=2, launch_pdl=pdl,
        )  # fmt: skip
    return y


def dequantize(codes: Tensor, absmax: Tensor, dtype: torch.dtype) -> Tensor:
    """[out, in]: code * absmax / 127, bit for bit the twin's, with no copy in float32 on the way."""
    weight = torch.empty(codes.shape, dtype=dtype, device=codes.device)
    width_out, width_in = codes.shape
    _dequantize[(triton.cdiv(width_in, DEQUANTIZE_K), triton.cdiv(width_out, DEQUANTIZE_N))](
        weight, codes, absmax, width_out, width_in, BLOCK_N=DEQUANTIZE_N, BLOCK_K=DEQUANTIZE_K, num_warps=4
    )
    return weight


@triton.jit
def _scaled(acc, absmax, bias_ptr, n, mask):
    """acc [.., n] * absmax / 127 (+ bias), in float32; None is no bias."""
    y = acc * tl.div_rn(absmax, 127.0)
    if bias_ptr is not None:
        y += tl.load(bias_ptr + n, mask=mask, other=0.0).to(tl.float32)
    return y


@triton.jit
def _prefetch(rows, width_in, BYTES: tl.constexpr):
    """Asks for the first bytes of each of these rows of codes, which no kernel before has written."""
    at = tl.arange(0, BYTES // 128) * 128
    address = rows[:, None] + tl.minimum(at, width_in - 1)[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [address.to(tl.uint64)], tl.int32, False, 1
    )


@triton.jit(do_not_specialize=["rows"])
def _multiply(
    out_ptr, x_ptr, codes_ptr, absmax_ptr, bias_ptr, rows, width_out, width_in, x_stride, span,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SLICES: tl.constexpr,
    IS_SPLIT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (block of out, split of in): y, or where split the unscaled sums [splits, rows, out]."""
    m = tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    first_n = tl.program_id(0) * BLOCK_N
    begin = tl.program_id(1) * span
    end = tl.minimum(begin + span, width_in)
    m_mask, n_mask = m < rows, first_n + n < width_out
    x_rows = x_ptr + m * x_stride
    first_row = codes_ptr + first_n.to(tl.int64) * width_in
    if PDL:
        last = width_out - 1 - first_n
        _prefetch(first_row + begin + tl.minimum(n, last) * width_in, end - begin, 4 * BLOCK_K)
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    code_rows = first_row + n * width_in
    if SLICES == 1:
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for k in range(begin, end, BLOCK_K):
            at = (k + tl.arange(0, BLOCK_K))[None, :]
            x = tl.load(x_rows[:, None] + at, mask=m_mask[:, None] & (at < end), other=0.0)
            codes = tl.load(code_rows[:, None] + at, mask=n_mask[:, None] & (at < end), other=0)
            acc = tl.dot(x, codes.to(x.dtype).T, acc, input_precision="ieee")
    else:
        width: tl.constexpr = BLOCK_K // SLICES
        offset = tl.arange(0, SLICES)[:, None, None] * width + tl.arange(0, width)[None, None, :]
        sums = tl.zeros((SLICES, BLOCK_M, BLOCK_N), tl.float32)
        for k in range(begin, end, BLOCK_K):
            at = k + offset
            x = tl.load(x_rows[None, :, None] + at, mask=m_mask[None, :, None] & (at < end), other=0.0)
            codes = tl.load(code_rows[None, :, None] + at, mask=n_mask[None, :, None] & (at < end), other=0)
            sums = tl.dot(x, tl.trans(codes.to(x.dtype), 0, 2, 1), sums, input_precision="ieee")
        acc = tl.sum(sums, 0)
    n += first_n
    if IS_SPLIT:
        row = tl.program_id(1) * rows + m
    else:
        row = m
        absmax = tl.load(absmax_ptr + n, mask=n_mask, other=0.0)
        acc = _scaled(acc, absmax[None, :], bias_ptr, n[None, :], n_mask[None, :])
    out_at = out_ptr + row[:, None].to(tl.int64) * width_out + n[None, :]
    tl.store(out_at, acc.to(out_ptr.dtype.element_ty), mask=m_mask[:, None] & n_mask[None, :])


@triton.jit(do_not_specialize=["rows"])
def _finish(
    y_ptr, sums_ptr, absmax_ptr, bias_ptr, rows, width_out,
    SPLITS: tl.constexpr, BLOCK_N: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (block of out, row): adds the splits up, always in the same order, and scales."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = n < width_out
    row = tl.program_id(1)
    acc = tl.zeros((BLOCK_N,), tl.float32)
    for split in tl.static_range(SPLITS):
        acc += tl.load(sums_ptr + (split * rows + row) * width_out + n, mask=mask, other=0.0)
    absmax = tl.load(absmax_ptr + n, mask=mask, other=0.0)
    y = _scaled(acc, absmax, bias_ptr, n, mask)
    tl.store(y_ptr + row * width_out + n, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _dequantize(
    weight_ptr, codes_ptr, absmax_ptr, width_out, width_in, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr
):
    """Program (block of in, block of out)."""
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.program_id(0) * BLOCK_K + tl.arange(0, BLOCK_K)
    mask = (n < width_out)[:, None] & (k < width_in)[None, :]
    at = n[:, None].to(tl.int64) * width_in + k[None, :]
    scale = tl.div_rn(tl.load(absmax_ptr + n, mask=n < width_out, other=0.0), 127.0)
    codes = tl.load(codes_ptr + at, mask=mask, other=0)
    tl.store(
        weight_ptr + at, (codes.to(tl.float32) * scale[:, None]).to(weight_ptr.dtype.element_ty), mask=mask
    )
