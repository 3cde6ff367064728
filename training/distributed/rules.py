"""What several processes cannot do, refused with the reason before anything is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import torch

from training.config import TrainConfig
from training.distributed.world import FSDP, ZERO3, World
from training.errors import InvalidConfig
from training.fast.install import can_go_fast
from training.methods.table import METHODS

BYTES = "uint8"
# Codes that a sharding would not find its way about in.
UNSHARDED = {FSDP: ("int8",), ZERO3: ("int8", "nf4")}


def check_together(config: TrainConfig, world: World) -> None:
    """Raises `InvalidConfig` with every reason why this run cannot be one of `world`."""
    unshared = _unshared(config, world) if world.is_sharded else ()
    if problems := [*unshared, *_missing(config, world)]:
        raise InvalidConfig(problems)


def _unshared(config: TrainConfig, world: World) -> Iterator[str]:
    """What cannot be shared out."""
    if config.quantization == "nf4" and config.quant_storage == BYTES:
        yield (
            f"quant_storage = {BYTES!r} cannot be sharded by {world.sharding}: only float tensors are,"
            " so every process would keep all 4-bit weights or lose track of their scales; use 'auto'"
        )
    if config.quantization in UNSHARDED.get(world.sharding, ()):
        yield (
            f"quantization = {config.quantization!r} is not sharded by {world.sharding}:"
            " use FSDP with nf4, or DDP"
        )
    if METHODS[config.method].family != "lora" or config.lora.init != "default":
        yield (
            f"method {config.method} with init {config.lora.init} is not sharded by {world.sharding}:"
            " LoRA from a start of its own is; use DDP for the others, where every process has all weights"
        )
    if config.optim.optimizer.startswith("paged"):
        yield f"optim.optimizer = {config.optim.optimizer!r} cannot page what is shared out: use 'adamw'"
    if config.keep.ewc:
        yield "keep.ewc holds whole weights where they are, and here they are in shares: use DDP"


def _missing(config: TrainConfig, world: World) -> Iterator[str]:
    """What is asked for and is not there."""
    if config.fast == "on" and not can_go_fast(config, world):
        yield (
            "fast = 'on' is for LoRA without dropout or dora, over none or nf4,"
            " and not with DeepSpeed: use 'auto'"
        )
    if world.sharding == ZERO3 and find_spec("deepspeed") is None:
        yield "DeepSpeed is not installed: run `pip install 'lorikeet[deepspeed]'`"


def resolve_storage(config: TrainConfig, world: World, kind: torch.dtype) -> torch.dtype:
    """The type in which 4-bit codes are kept: the same bytes, under a name that sharding takes."""
    name = config.quant_storage
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    return kind if world.is_sharded else torch.uint8


def loads_on_device(config: TrainConfig, world: World) -> bool:
    """Whether each process loads all weights on its GPU: FSDP takes its share from the host, if it can."""
    return world.sharding == "none" or (world.sharding == FSDP and config.quantization == "nf4")
