"""A step of training on tensors that have shapes but no bytes, to see what it would keep in memory.

Every decoder layer costs the same, so the step is rehearsed with one layer and with two; the rest is a line.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from training.fast.head import can_skip_logits
from training.fast.layers import make_layers_fast
from training.fast.loss import rows_loss
from training.fast.modules import make_linears_fast
from training.memory.standins import ATTENTION, Dequantized, kernels, packed, register_attention
from training.memory.storages import Storages
from training.model import Model
from training.quiet import hushed


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of one forward pass; `ragged` rows differ in length, so attention needs a mask.

    `counted` tokens have a loss: all of them where it is None.
    """

    rows: int
    length: int
    ragged: bool
    counted: int | None = None

    @property
    def tokens(self) -> int:
        return self.rows * self.length


@dataclass(frozen=True, slots=True)
class Way:
    """How a run computes, on a GPU or not; `dtype` is the base's.

    The way that is not `fast` is transformers' and PEFT's own.
    """

    gpu: bool
    fast: bool
    dtype: torch.dtype

    @property
    def casts(self) -> bool:
        """Whether weights in float32 are multiplied in bfloat16 all the same."""
        return self.gpu and not self.fast and self.dtype == torch.bfloat16


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """Bytes beside the weights: kept after the forward pass, at most while going back, and gradients left."""

    saved: int
    highest: int
    gradients: int

    def grown(self, longer: Rehearsed, num_layers: int) -> Rehearsed:
        """The same for `num_layers`, where this is of one layer and `longer` of two."""
        return longer.with_more(self, longer, num_layers - 2)

    def with_more(self, shorter: Rehearsed, longer: Rehearsed, count: int) -> Rehearsed:
        """This and `count` layers more, of those that `longer` has one of beside all that `shorter` has."""
        saved, gradients = longer.saved - shorter.saved, longer.gradients - shorter.gradients
        # Going back frees what was saved and makes gradients: the peak is at one end or the other.
        return Rehearsed(
            saved=self.saved + count * saved,
            highest=self.highest + count * max(saved, gradients),
            gradients=self.gradients + count * gradients,
        )


def rehearse(model: Model, batch: Batch, way: Way) -> Rehearsed:
    """One step of a skeleton, whose tensors it takes the place of; the loss is left out."""
    model.train()
    register_attention(way.gpu)
    base = causal_of(model)
    base.set_attn_implementation(ATTENTION)
    with FakeTensorMode(allow_non_fake_inputs=True), hushed():
        _furnish(model, way.fast)
        if way.fast:
            make_linears_fast(model)
            make_layers_fast(base, kernels(way.gpu))
        watched = Storages([*model.parameters(), *model.buffers()])
        ids, mask = torch.zeros(batch.rows, batch.length, dtype=torch.int64), _mask(model, batch, way)
        with watched:
            with torch.autocast("cpu", torch.bfloat16, enabled=way.casts):
                out = model(input_ids=ids, attention_mask=mask, logits_to_keep=1, use_cache=False).logits
            loss = out.float().sum()
            del out
            saved = watched.live
            loss.backward()
            del loss
        return Rehearsed(saved, watched.peak, watched.live)


def rehearse_loss(head: nn.Linear, batch: Batch) -> int:
    """Bytes that the fast way's loss takes at most, the decoder's output [tokens, width] among them."""
    vocabulary, width = head.weight.shape
    counted = batch.tokens if batch.counted is None else batch.counted
    with FakeTensorMode():
        weight = torch.empty(vocabulary, width, dtype=head.weight.dtype)
        rows = torch.zeros(counted, dtype=torch.int64)
        with Storages([weight, rows]) as watched:
            hidden = torch.empty(batch.tokens, width, dtype=weight.dtype, requires_grad=True)
            rows_loss(hidden.index_select(0, rows), weight, rows)
        return int(watched.peak)


def causal_of(model: Model) -> Model:
    """The model under its adapter, if it has one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _mask(model: Model, batch: Batch, way: Way) -> Tensor | None:
    """What keeps padding out; a run whose loss knows its rows goes without."""
    if not batch.ragged or _prefixed(model) or (way.fast and can_skip_logits(causal_of(model))):
        return None
    return torch.ones(batch.rows, 1, batch.length, batch.length, dtype=torch.bool)


def _prefixed(model: Model) -> bool:
    """Whether soft tokens come first: PEFT lengthens masks for them, but only flat ones."""
    return any(setting.is_prompt_learning for setting in getattr(model, "peft_config", {}).values())


def _furnish(model: Model, fast: bool) -> None:
    """Fake tensors for meta tensors, plain linears for quantized ones: their kernels know no fakes."""
    for module in list(model.modules()):
        for name, child in module._modules.items():
            if isinstance(child, Linear4bit | Linear8bitLt):
                module._modules[name] = packed(child) if fast else Dequantized(child)
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                fake = torch.empty(weight.shape, dtype=weight.dtype)
                module._parameters[name] = nn.Parameter(fake, requires_grad=weight.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else torch.empty(buffer.shape, dtype=buffer.dtype)
