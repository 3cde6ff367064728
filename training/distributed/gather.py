"""Tensors made whole that processes hold in shares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from peft import get_peft_model_state_dict
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from training.distributed.world import ZERO3, World
from training.errors import UnservableAdapter


def whole(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors with all their entries; every process must ask."""
    with _gathered(weights.values()):
        return {name: _whole(weight) for name, weight in weights.items()}


def adapter_state(model: Any) -> dict[str, Tensor]:
    """By their names in the model, every tensor that PEFT saves, whole, on the CPU; every process must ask.

    Raises `UnservableAdapter` for one without entries, as a share never gathered is.
    """
    with _gathered(weight for weight in model.parameters() if weight.requires_grad):
        state = model.state_dict()
        kept = get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False)
        saved = {id(tensor) for tensor in kept.values()}
        found = {name: _whole(tensor).cpu() for name, tensor in state.items() if id(tensor) in saved}
    if empty := [name for name, tensor in found.items() if tensor.numel() == 0]:
        raise UnservableAdapter(f"{len(empty)} tensors of the adapter are empty, among them {empty[0]}")
    return found


@torch.no_grad()
def put(weight: Tensor, value: Tensor) -> None:
    """Makes `value`, which is whole, the content of `weight`, or of this process's share of it."""
    if isinstance(weight, DTensor):
        value = distribute_tensor(value.to(weight.device), weight.device_mesh, weight.placements)
    weight.copy_(value)


@contextmanager
def opened(model: nn.Module, name: str) -> Iterator[Any]:
    """The module `name` of `model`, its weights whole for as long; every process must ask."""
    owner = _owner(model, name)
    module = model.get_submodule(name)
    with _gathered(module.parameters()):
        if owner is not None:
            owner.unshard()
        try:
            yield module
        finally:
            if owner is not None:
                owner.reshard()


def _owner(model: nn.Module, name: str) -> FSDPModule | None:
    """The innermost of FSDP's units around a module, which shares out its weights."""
    path = name.split(".")
    around = [model, *(model.get_submodule(".".join(path[:end])) for end in range(1, len(path) + 1))]
    return next((unit for unit in reversed(around) if isinstance(unit, FSDPModule)), None)


def num_entries(weight: Tensor) -> int:
    """Of all shares of a parameter."""
    return int(getattr(weight, "ds_numel", weight.numel()))


def _whole(tensor: Tensor) -> Tensor:
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


@contextmanager
def _gathered(weights: Iterable[Tensor]) -> Iterator[None]:
    """DeepSpeed's parameters are empty outside of this."""
    shares = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not shares:
        yield
        return
    from deepspeed import zero

    with zero.GatheredParameters(shares):
        yield


@contextmanager
def sharded_loading(world: World) -> Iterator[None]:
    """Lets DeepSpeed share out a model's weights while they are read."""
    if world.sharding != ZERO3:
        yield
        return
    from accelerate.utils import DeepSpeedPlugin

    # transformers looks for it for as long as somebody holds it.
    plugin = DeepSpeedPlugin()
    plugin.set_deepspeed_weakref()
    yield
    del plugin
