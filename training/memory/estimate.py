"""The most memory that a step of a run takes, part by part, from the structure of its model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from bitsandbytes.nn import Int8Params, Params4bit
from torch import nn

from training.base import read_base
from training.config import TrainConfig
from training.memory.rehearsal import Batch, Rehearsed, rehearse
from training.memory.skeleton import skeleton
from training.methods.targets import layer_of
from training.model import Model

# Four bits a weight, eight for each 64 of them, and four bytes for each 256 of those eights.
NF4_BITS = 4 + 8 / 64 + 32 / (64 * 256)
# The loss keeps log-probabilities in float32; going back, two gradients of their size stand beside them.
LOSS_BYTES = 12


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
    """The estimate for batches like `batch`. Raises `InvalidBase`, `InvalidConfig`.

    What torch allocates is counted; a GPU's own context, about half a GiB, comes on top.
    """
    dtype = _dtype(config.dtype, gpu)
    whole = skeleton(config, dtype)
    step = _rehearsed(config, whole, dtype, batch, gpu)
    learned = sum(_bytes(weight) for weight in whole.parameters() if weight.requires_grad)
    kept = sum(_bytes(weight) for weight in whole.parameters() if not weight.requires_grad)
    vocabulary = int(read_base(config.base).get_text_config().vocab_size)
    logits = LOSS_BYTES * batch.rows * batch.length * vocabulary
    optimizer, paged = _optimizer(config, learned, gpu)
    held = 0 if paged else optimizer
    standing = kept + learned + held + (learned if config.optim.accumulation > 1 else 0)
    moments = {
        "at the loss": standing + step.saved + logits,
        "going back": standing + step.highest + _dequantized(whole, dtype),
        "at the optimizer's step": kept + 2 * learned + held,
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


def _rehearsed(config: TrainConfig, whole: Model, dtype: torch.dtype, batch: Batch, gpu: bool) -> Rehearsed:
    """What the whole depth keeps; layers below the first one that learns keep nothing."""
    layers = int(read_base(config.base).get_text_config().num_hidden_layers)
    if not config.gradient_checkpointing:
        layers -= min((layer_of(name) or 0) for name, w in whole.named_parameters() if w.requires_grad)
    half = gpu and dtype == torch.bfloat16
    one, two = (
        rehearse(skeleton(_everywhere(config, count), dtype, count), batch, gpu=gpu, half=half)
        for count in (1, 2)
    )
    return one.grown(two, layers)


def _everywhere(config: TrainConfig, count: int) -> TrainConfig:
    """The same on all of `count` layers."""
    return replace(config, last_layers=count, lora=replace(config.lora, layers_to_transform=None))


def _optimizer(config: TrainConfig, learned: int, gpu: bool) -> tuple[int, bool]:
    """Bytes of the optimizer's two averages, and whether they leave the device when it is full."""
    name = config.optim.optimizer
    if name == "auto" and gpu and config.quantization != "none":
        name = "paged_adamw_32bit"
    size = learned // 2 if name == "paged_adamw_8bit" and gpu else 2 * learned
    return size, gpu and name.startswith("paged")


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


def _dequantized(model: Model, dtype: torch.dtype) -> int:
    """The largest quantized linear: it is unpacked while it is multiplied by."""
    packed = [weight.numel() for weight in model.parameters() if isinstance(weight, Params4bit | Int8Params)]
    return int(max(packed, default=0) * dtype.itemsize)
