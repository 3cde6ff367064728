"""The kernels of elementwise.py: each value is read once, computed in float32 and rounded once."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


def turn(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor, num_turned: int, *, back: bool = False) -> None:
    """As elementwise.turn; rows of cos and sin are equally far apart."""
    batch, length, heads, dim = x.shape
    half, num_angles = cos.shape[-1], cos.shape[0] * cos.shape[1]
    assert x.is_contiguous() and out.is_contiguous() and half * 2 == dim and num_angles % length == 0
    assert cos.stride() == sin.stride() and cos.stride(2) == 1
    assert cos.shape[0] == 1 or cos.stride(0) == length * cos.stride(1)
    _turn[(batch * length,)](
        out, x, cos, sin, heads, num_turned, num_angles, cos.stride(1), -1.0 if back else 1.0, HALF=half,
        HEADS=triton.next_power_of_2(heads), COLUMNS=triton.next_power_of_2(half), num_warps=8,
    )  # fmt: skip


def silu_mul(gate_up: Tensor) -> Tensor:
    """As server.kernels.fused.silu_mul."""
    gate_up = gate_up.contiguous()
    ffn = gate_up.shape[-1] // 2
    out = gate_up.new_empty(*gate_up.shape[:-1], ffn)
    _silu_mul[(out.numel() // ffn, triton.cdiv(ffn, BLOCK))](out, gate_up, ffn, WIDTH=BLOCK, num_warps=4)
    return out


def silu_mul_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    """As elementwise.silu_mul_backward."""
    grad, gate_up = grad.contiguous(), gate_up.contiguous()
    ffn, out = grad.shape[-1], torch.empty_like(gate_up)
    grid = grad.numel() // ffn, triton.cdiv(ffn, BLOCK)
    _silu_mul_backward[grid](out, grad, gate_up, ffn, WIDTH=BLOCK, num_warps=4)
    return out


@triton.jit
def _turn(
    out_ptr, x_ptr, cos_ptr, sin_ptr, heads, num_turned, num_angles, angle_stride, sign,
    HALF: tl.constexpr, HEADS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Program (token)."""
    token = tl.program_id(0).to(tl.int64)
    place, head = tl.arange(0, COLUMNS), tl.arange(0, HEADS)[:, None]
    column = place[None, :]
    is_there = (head < heads) & (column < HALF)
    # A row of angles for every token, or for every place that all sequences share.
    angle = (token % num_angles) * angle_stride + place
    cos = tl.load(cos_ptr + angle, mask=place < HALF, other=1.0).to(tl.float32)[None, :]
    sin = tl.load(sin_ptr + angle, mask=place < HALF, other=0.0).to(tl.float32)[None, :] * sign
    is_turned = head < num_turned
    cos, sin = tl.where(is_turned, cos, 1.0), tl.where(is_turned, sin, 0.0)
    at = (token * heads + head) * (2 * HALF) + column
    left = tl.load(x_ptr + at, mask=is_there).to(tl.float32)
    right = tl.load(x_ptr + at + HALF, mask=is_there).to(tl.float32)
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + at, (left * cos - right * sin).to(kind), mask=is_there)
    tl.store(out_ptr + at + HALF, (right * cos + left * sin).to(kind), mask=is_there)


@triton.jit
def _silu_mul(out_ptr, gate_up_ptr, ffn, WIDTH: tl.constexpr):
    """Program (row, block of columns)."""
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    is_there = column < ffn
    gate_ptr = gate_up_ptr + row * 2 * ffn + column
    gate = tl.load(gate_ptr, mask=is_there).to(tl.float32)
    up = tl.load(gate_ptr + ffn, mask=is_there).to(tl.float32)
    out = gate * tl.sigmoid(gate) * up
    tl.store(out_ptr + row * ffn + column, out.to(out_ptr.dtype.element_ty), mask=is_there)


@triton.jit
def _silu_mul_backward(out_ptr, grad_ptr, gate_up_ptr, ffn, WIDTH: tl.constexpr):
    """Program (row, block of columns)."""
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    is_there = column < ffn
    at = row * 2 * ffn + column
    grad = tl.load(grad_ptr + row * ffn + column, mask=is_there).to(tl.float32)
    gate = tl.load(gate_up_ptr + at, mask=is_there).to(tl.float32)
    up = tl.load(gate_up_ptr + at + ffn, mask=is_there).to(tl.float32)
    share = tl.sigmoid(gate)
    grad_gate = grad * up * share * (1 + gate * (1 - share))
    kind = out_ptr.dtype.element_ty
    tl.store(out_ptr + at, grad_gate.to(kind), mask=is_there)
    tl.store(out_ptr + at + ffn, (grad * gate * share).to(kind), mask=is_there)
