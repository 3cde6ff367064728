"""Who takes part in this run: what torchrun or `accelerate launch` has told this process."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

NONE, FSDP, ZERO3 = "none", "fsdp", "zero3"


@dataclass(frozen=True, slots=True)
class World:
    """This process is the `rank`-th of `size`; `sharding` says whether they share out the weights too."""

    rank: int = 0
    size: int = 1
    sharding: str = NONE

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def is_shared(self) -> bool:
        """Whether there is more to it than one process that has everything."""
        return self.size > 1 or self.is_sharded

    @property
    def is_sharded(self) -> bool:
        return self.sharding != NONE

    def wait(self) -> None:
        """Returns once every process has come here."""
        if self.size > 1:
            PartialState().wait_for_everyone()

    def of_first(self, value: Any) -> Any:
        """The first process's `value`, which must be one that pickles; every process must ask."""
        if self.size == 1:
            return value
        values = [value]
        torch.distributed.broadcast_object_list(values, src=0)
        return values[0]

    def total(self, *values: float) -> tuple[float, ...]:
        """The sum over all processes of each value; every process must ask."""
        if self.size == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64, device=PartialState().device)
        torch.distributed.all_reduce(sums)
        return tuple(sums.tolist())


ALONE = World()


def join() -> World:
    """The world that the environment tells of; processes of one run meet here."""
    _import_deepspeed()
    sharding = _sharding()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and sharding == NONE:
        return ALONE
    state = PartialState(cpu=not torch.cuda.is_available(), **_backends(sharding))
    if state.device.type == "cpu" and sharding != NONE:
        _shard_on_cpu(sharding)
    return World(state.process_index, state.num_processes, sharding)


def _import_deepspeed() -> None:
    """Accelerate does so in every run where it is installed; what it misses here is no output of ours."""
    if find_spec("deepspeed") is None:
        return
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with redirect_stdout(sys.stderr):
        import_module("deepspeed")


def _backends(sharding: str) -> dict[str, str]:
    """Gloo beside NCCL: what the hosts tell each other at every step then waits for no GPU."""
    if sharding == ZERO3 or not torch.cuda.is_available():
        return {}
    return {"backend": "cuda:nccl,cpu:gloo"}


def _sharding() -> str:
    for variable, sharding in (("ACCELERATE_USE_FSDP", FSDP), ("ACCELERATE_USE_DEEPSPEED", ZERO3)):
        if os.environ.get(variable, "false").lower() == "true":
            return sharding
    return NONE


def _shard_on_cpu(sharding: str) -> None:
    """Accelerate shards on devices only; asked to on a CPU, it would copy all weights and say nothing."""
    kind = DistributedType.MULTI_GPU
    if sharding == ZERO3:
        from deepspeed import ops

        kind = DistributedType.DEEPSPEED
        # Its own collectives would be compiled now, for minutes; torch's are there.
        ops.__compatible_ops__["deepspeed_shm_comm"] = False
    PartialState._shared_state["distributed_type"] = kind
