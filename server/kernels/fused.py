"""The small operations between the linears."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x [..., dim] / rms(x) * weight [dim], the mean square in float32."""
    return F.rms_norm(x, weight.shape, weight, eps)


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(norm(x + residual), x + residual); residual is overwritten."""
    residual += x
    return rms_norm(residual, weight, eps), residual


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [tokens, heads, dim] by angles whose cos, sin are [tokens, 1, dim / 2]; halves, not pairs."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat((left * cos - right * sin, right * cos + left * sin), dim=-1)


def silu_mul(gate_up: Tensor) -> Tensor:
    """[tokens, 2 * ffn] -> silu(gate) * up [tokens, ffn]."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up
