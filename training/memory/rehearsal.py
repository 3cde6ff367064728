"""A step of training on tensors that have shapes but no bytes, to see what it would keep in memory.

Every decoder layer costs the same, so the step is rehearsed with one layer and with two; the rest is a line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from training.memory.storages import Storages
from training.model import Model
from training.quiet import hushed

ATTENTION = "rehearsed"


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one forward pass; `ragged` rows differ in length, so attention needs a mask."""

    rows: int
    length: int
    ragged: bool


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """Bytes beside the weights: kept after the forward pass, at most while going back, and gradients left."""

    saved: int
    highest: int
    gradients: int

    def grown(self, longer: Rehearsed, num_layers: int) -> Rehearsed:
        """The same for `num_layers`, where this is of one layer and `longer` of two."""
        more = num_layers - 2
        saved, gradients = longer.saved - self.saved, longer.gradients - self.gradients
        # Going back frees what was saved and makes gradients: the peak is at one end or the other.
        return Rehearsed(
            saved=longer.saved + more * saved,
            highest=longer.highest + more * max(saved, gradients),
            gradients=longer.gradients + more * gradients,
        )


def rehearse(model: Model, batch: Batch, *, gpu: bool, half: bool) -> Rehearsed:
    """One step of a skeleton, whose tensors it takes the place of; the loss is left out.

    `half` computes in bfloat16 what weights in float32 take part in, as a run on a GPU does.
    """
    model.train()
    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _gpu_attention if gpu else _cpu_attention)
    # A mask is made here or there is none: asked of a fake tensor, transformers would always make one.
    ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, lambda *_, **__: None)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.set_attn_implementation(ATTENTION)
    with FakeTensorMode(allow_non_fake_inputs=True), hushed():
        _furnish(model)
        watched = Storages([*model.parameters(), *model.buffers()])
        ids = torch.zeros(batch.rows, batch.length, dtype=torch.int64)
        shape = (batch.rows, 1, batch.length, batch.length)
        mask = torch.ones(shape, dtype=torch.bool) if batch.ragged and not _prefixed(model) else None
        with watched:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                out = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False).logits
            loss = out.float().sum()
            del out
            saved = watched.live
            loss.backward()
            del loss
        return Rehearsed(saved, watched.peak, watched.live)


def _prefixed(model: Model) -> bool:
    """Whether soft tokens come first: PEFT lengthens masks for them, but only flat ones."""
    return any(setting.is_prompt_learning for setting in getattr(model, "peft_config", {}).values())


def _furnish(model: Model) -> None:
    """Fake tensors for meta tensors, plain linears for quantized ones: their kernels know no fakes."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if isinstance(child, Linear4bit | Linear8bitLt):
                module._modules[name] = _Dequantized(child)
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=weight.dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)


class _Dequantized(nn.Module):
    """A quantized linear as autograd sees it: computes in its own format, answers in that of its input."""

    def __init__(self, source: Linear4bit | Linear8bitLt) -> None:
        super().__init__()
        self.in_features, self.out_features = source.in_features, source.out_features
        shape = (source.out_features, source.in_features)
        dtype = getattr(source, "compute_dtype", None) or torch.bfloat16
        self.weight = nn.Parameter(torch.empty(shape, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.to(self.weight.dtype), self.weight).to(x.dtype)


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
