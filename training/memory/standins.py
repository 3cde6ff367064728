"""What stands in for kernels that know no fake tensors: allocates and keeps the same, computes nothing."""

from __future__ import annotations

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from training.fast.elementwise import Kernels

ATTENTION = "rehearsed"


def register_attention(gpu: bool) -> None:
    """Makes `ATTENTION` known to transformers, as a GPU's kernel or torch's own on a CPU."""
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _gpu_attention if gpu else _cpu_attention)
    # The caller makes a mask or there is none: asked of a fake tensor, transformers would always make one.
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, lambda *_, **__: None)


def kernels(gpu: bool) -> Kernels:
    """What stands between the linears of the fast way; on a CPU torch's own operators do it, fakes or not."""
    if not gpu:
        return Kernels(implementation=ATTENTION)
    return Kernels(
        rms_norm=lambda norm, x: _Normed.apply(x, norm.weight),  # type: ignore[no-untyped-call]
        turn=lambda *_, **__: None,
        attention=lambda query, key, value, **_: _Kept.apply(query, key, value, None),  # type: ignore[no-untyped-call]
        silu_mul=lambda gate_up: gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2),
        silu_mul_backward=lambda _, gate_up: torch.empty_like(gate_up),
        implementation=ATTENTION,
    )


class Dequantized(nn.Module):
    """A quantized linear as autograd sees it: computes in its own format, answers in that of its input."""

    def __init__(self, source: Linear4bit | Linear8bitLt) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        shape = (source.out_features, source.in_features)
        dtype = getattr(source, "compute_dtype", None) or torch.bfloat16
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.to(self.weight.dtype), self.weight).to(x.dtype)


def packed(source: Linear4bit | Linear8bitLt) -> nn.Linear:
    """A quantized linear as the fast way sees it: asked for its weight, it makes it anew each time."""
    # Any format but the one that will be asked for.
    dtype = torch.float16 if source.compute_dtype == torch.bfloat16 else torch.bfloat16
    bias = source.bias is not None
    return nn.Linear(source.in_features, source.out_features, bias, dtype=dtype).requires_grad_(False)


def _gpu_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """Keeps its inputs, its output and a sum for each row.

    Query (rows, heads, length, width), keys and values (rows, key heads, length, width); the output comes as
    (rows, length, heads, width).
    """
    key, value = _repeated(query, key, value, mask)
    if torch.is_autocast_enabled("cpu"):
        query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    bias = None if mask is None else torch.zeros_like(mask, dtype=query.dtype)
    out: Tensor = _Kept.apply(query, key, value, bias)  # type: ignore[no-untyped-call]
    return out.transpose(1, 2), None


def _cpu_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    """The same by torch's own."""
    key, value = _repeated(query, key, value, mask)
    shares = key.shape[1] != query.shape[1]
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=shares
    )
    return out.transpose(1, 2).contiguous(), None


def _repeated(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """transformers repeats keys for the heads that share them wherever there is a mask."""
    times = query.shape[1] // key.shape[1]
    if mask is None or times == 1:
        return key, value
    return key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)


class _Kept(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        out = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format).transpose(1, 2)
        sums = torch.empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, bias, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return (*(torch.empty_like(part) for part in ctx.saved_tensors[:3]), None)


class _Normed(torch.autograd.Function):
    """Keeps its input and a factor for each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, torch.empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        return torch.empty_like(ctx.saved_tensors[0]), None
