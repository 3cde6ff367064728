"""The most memory that a step of a run takes, part by part, from the structure of its model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from bitsandbytes.nn import Int8Params, Params4bit
from torch import nn

from training.base import read_base
from training.config import TrainConfig
from training.distributed.world import ALONE
from training.fast.head import can_skip_logits
from training.fast.install import goes_fast
from training.memory.rehearsal import Batch, Rehearsed, Way, causal_of, rehearse, rehearse_loss
from training.memory.skeleton import skeleton
from training.memory.unpatched import unpatched
from training.methods.targets import layer_of
from training.model import Model

# Four bits a weight, eight for each 64 of them, and four bytes for each 256 of those eights.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# The loss keeps log-probabilities in float32; going back, two gradients of their size stand beside them.
LOSS_BYTES = 12
# cuBLAS keeps 32 MiB on a Hopper GPU for each thread that multiplies: one goes forward, one goes back.
WORKSPACES = 2 * (32 << 20)


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes. Parts peak at different moments, so `peak`, which is at `moment`, is less than their sum.

    An optimizer that is paged out when memory is short is not in the peak.

    `measured` is the peak of real steps, where some were taken.
    """

    base: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    peak: int
    moment: str
    measured: int | None = None

    def facts(self) -> list[tuple[str, str]]:
        parts = ("base", "adapter", "gradients", "optimizer", "activations", "logits")
        shown = [(part, readable(getattr(self, part))) for part in parts]
        peak = (f"peak, {self.moment}", readable(self.peak))
        real = [] if self.measured is None else [("measured here", readable(self.measured))]
        return [*shown, peak, *real]


def readable(size: float) -> str:
    """Bytes as a reader likes them."""
    if size < 2**20:
        return f"{size / 2**10:.1f} KiB"
    return f"{size / 2**30:.2f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def estimate(config: TrainConfig, batch: Batch, *, gpu: bool) -> MemoryEstimate:
    """The estimate for batches like `batch`, on the way that the run would go.

    What torch allocates is counted; a GPU's own context, about half a GiB, comes on top. Raises
    `InvalidBase`, `InvalidConfig`.
    """
    way = Way(gpu, goes_fast(config, ALONE, gpu), _dtype(config.dtype, gpu))
    with unpatched(read_base(config.base)):
        whole = skeleton(config, way.dtype, fast=way.fast)
        step, logits = _rehearsed(config, whole, batch, way), _logits(whole, batch, way)
    kept, learned = _weights(whole, way)
    optimizer, paged = _optimizer(config, learned, way)
    held = 0 if paged else optimizer
    before = kept + learned + held + (WORKSPACES if gpu else 0)
    standing = before + (learned if config.optim.accumulation > 1 else 0)
    moments = {
        "at the loss": standing + step.saved + logits,
        "going back": standing + step.highest + (0 if way.fast else _dequantized(whole, way.dtype)),
        "at the optimizer's step": before + learned,
    }
    moment = max(moments, key=moments.__getitem__)
    return MemoryEstimate(
        base=kept,
        adapter=learned,
        gradients=learned,
        optimizer=optimizer,
        activations=step.saved,
        logits=logits,
        peak=moments[moment],
        moment=moment,
    )


def _rehearsed(config: TrainConfig, whole: Model, batch: Batch, way: Way) -> Rehearsed:
    """What the whole depth keeps; layers below the first that learns do so only if they compute again."""
    layers = int(read_base(config.base).get_text_config().num_hidden_layers)
    below = min((layer_of(name) or 0) for name, w in whole.named_parameters() if w.requires_grad)

    def rehearsed(count: int, learning: int) -> Rehearsed:
        model = skeleton(_last(config, count, learning), way.dtype, count, fast=way.fast)
        return rehearse(model, batch, way)

    one = rehearsed(1, 1)
    step = one.grown(rehearsed(2, 2), layers - below)
    if below and config.gradient_checkpointing:
        step = step.with_more(one, rehearsed(2, 1), below)
    return step


def _last(config: TrainConfig, count: int, learning: int) -> TrainConfig:
    """The same on the last `learning` of `count` layers."""
    chosen = None if learning == count else tuple(range(count - learning, count))
    return replace(config, last_layers=learning, lora=replace(config.lora, layers_to_transform=chosen))


def _logits(whole: Model, batch: Batch, way: Way) -> int:
    """What the loss takes while it is made."""
    causal = causal_of(whole)
    if way.fast and can_skip_logits(causal):
        return rehearse_loss(causal.get_output_embeddings(), batch)
    return LOSS_BYTES * batch.tokens * int(causal.config.get_text_config().vocab_size)


def _weights(whole: Model, way: Way) -> tuple[int, int]:
    """Bytes of what stays as it is, and of what learns."""
    learned = sum(_bytes(weight) for weight in whole.parameters() if weight.requires_grad)
    kept = sum(_bytes(weight) for weight in whole.parameters() if not weight.requires_grad)
    return kept + (_unnested(whole) if way.fast else 0), learned


def _optimizer(config: TrainConfig, learned: int, way: Way) -> tuple[int, bool]:
    """Bytes of the optimizer's two averages, and whether they leave the device when it is full."""
    name = config.optim.optimizer
    if name == "auto" and way.gpu and config.quantization != "none" and not way.fast:
        name = "paged_adamw_32bit"
    size = learned // 2 if name == "paged_adamw_8bit" and way.gpu else 2 * learned
    return size, way.gpu and name.startswith("paged")


def _dtype(name: str, gpu: bool) -> torch.dtype:
    if name == "auto":
        return torch.bfloat16 if gpu else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


def _bytes(weight: nn.Parameter) -> int:
    if isinstance(weight, Params4bit):
        return int(weight.numel() * NF4_BITS / 8)
    if isinstance(weight, Int8Params):
        return int(weight.numel() + 4 * weight.shape[0])
    return int(weight.numel() * weight.element_size())


def _unnested(model: Model) -> int:
    """Scales of NF4 linears in float32: the fast way has them beside those that are quantized themselves."""
    named = dict(model.named_parameters())
    learning = {layer_of(name) for name, weight in named.items() if weight.requires_grad}
    found = [w for name, w in named.items() if isinstance(w, Params4bit) and layer_of(name) in learning]
    return sum(4 * weight.numel() // 64 for weight in found)


def _dequantized(model: Model, dtype: torch.dtype) -> int:
    """The largest quantized linear: it is unpacked while it is multiplied by."""
    packed = [weight.numel() for weight in model.parameters() if isinstance(weight, Params4bit | Int8Params)]
    return int(max(packed, default=0) * dtype.itemsize)
