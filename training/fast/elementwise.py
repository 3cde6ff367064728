"""What stands between the linears of a layer, forward and backward in few passes over memory.

On a GPU each is a kernel of elementwise_triton.py; what stands here is the slow twin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels import fused


class Heads(torch.autograd.Function):
    """qkv [batch, length, heads + 2 kv_heads, dim] -> q, k and v, each [batch, its heads, length, dim].

    q and k are turned by the angles of cos and sin [batch or 1, length, dim / 2], halves, not pairs.
    """

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, kv_heads: int, kernels: Kernels
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(cos, sin)
        ctx.kernels = kernels
        num_turned = qkv.shape[2] - kv_heads
        turned = torch.empty_like(qkv)
        kernels.turn(turned, qkv, cos, sin, num_turned)
        parts = turned.split([num_turned - kv_heads, kv_heads, kv_heads], 2)
        return tuple(part.transpose(1, 2) for part in parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        cos, sin = ctx.saved_tensors
        grad = torch.cat([each.transpose(1, 2) for each in grads], 2)
        ctx.kernels.turn(grad, grad, cos, sin, grad.shape[2] - grads[2].shape[1], back=True)
        return grad, None, None, None, None


class SiluMul(torch.autograd.Function):
    """gate_up [..., 2 * ffn] -> silu(gate) * up [..., ffn]."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, kernels: Kernels) -> Tensor:
        ctx.save_for_backward(gate_up)
        ctx.kernels = kernels
        return kernels.silu_mul(gate_up)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (gate_up,) = ctx.saved_tensors
        return ctx.kernels.silu_mul_backward(grads[0], gate_up), None


def turn(out: Tensor, x: Tensor, cos: Tensor, sin: Tensor, num_turned: int, *, back: bool = False) -> None:
    """The first `num_turned` heads of x [batch, length, heads, dim] turned, the others as they are.

    out may be x; both are contiguous. cos and sin: [batch or 1, length, dim / 2].
    """
    if x.is_cuda:
        from training.fast import elementwise_triton

        elementwise_triton.turn(out, x, cos, sin, num_turned, back=back)
        return
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)
    out[:, :, num_turned:] = x[:, :, num_turned:]
    out[:, :, :num_turned] = fused.rotate(x[:, :, :num_turned], cos, -sin if back else sin)


def silu_mul_forward(gate_up: Tensor) -> Tensor:
    """gate_up [..., 2 * ffn] -> silu(gate) * up [..., ffn], without a node of its own."""
    if gate_up.is_cuda:
        from training.fast import elementwise_triton

        return elementwise_triton.silu_mul(gate_up)
    return fused.silu_mul(gate_up)


def silu_mul_backward(grad: Tensor, gate_up: Tensor) -> Tensor:
    """grad [..., ffn] of silu(gate) * up -> the gradient of gate_up [..., 2 * ffn]."""
    if grad.is_cuda:
        from training.fast import elementwise_triton

        return elementwise_triton.silu_mul_backward(grad, gate_up)
    gate, up = gate_up.chunk(2, -1)
    return torch.cat((torch.ops.aten.silu_backward(grad * up, gate), grad * F.silu(gate)), -1)


def rms_norm(norm: Any, x: Tensor) -> Tensor:
    """transformers' norm of x [..., dim] in one kernel: what it rounds twice is rounded once."""
    return F.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


@dataclass(frozen=True, slots=True)
class Kernels:
    """What computes between the linears; a rehearsal of a step has others, which only allocate.

    `implementation` is transformers' name of the attention that `attention` does the work of.
    """

    rms_norm: Callable[[Any, Tensor], Tensor] = rms_norm
    turn: Callable[..., None] = turn
    attention: Callable[..., Tensor] = F.scaled_dot_product_attention
    silu_mul: Callable[[Tensor], Tensor] = silu_mul_forward
    silu_mul_backward: Callable[[Tensor, Tensor], Tensor] = silu_mul_backward
    implementation: str = "sdpa"


KERNELS = Kernels()


def heads_of(
    qkv: Tensor, cos: Tensor, sin: Tensor, kv_heads: int, kernels: Kernels = KERNELS
) -> tuple[Tensor, Tensor, Tensor]:
    """`Heads`, typed."""
    parts: tuple[Tensor, Tensor, Tensor] = Heads.apply(qkv, cos, sin, kv_heads, kernels)  # type: ignore[no-untyped-call]
    return parts


def silu_mul(gate_up: Tensor, kernels: Kernels = KERNELS) -> Tensor:
    """`SiluMul`, typed."""
    gated: Tensor = SiluMul.apply(gate_up, kernels)  # type: ignore[no-untyped-call]
    return gated
