"""What an adapter's own files say of it over a base: its manifest, but for what else came with them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from adapters.files import FileSpec
from adapters.header import TensorInfo
from adapters.manifest import BaseShapes, Manifest, content_digest
from adapters.peft_config import AdapterConfig
from adapters.plan import CARRIED, Plan


def manifest_of(
    files: Sequence[FileSpec],
    config: AdapterConfig,
    plan: Plan,
    tensors: Mapping[str, TensorInfo],
    base: BaseShapes,
) -> Manifest:
    """Of checked files; the same each time they are read."""
    return Manifest(
        digest=content_digest(files),
        files=tuple(files),
        kind=_kind_name(config),
        rank=max((target.rank for target in plan.targets.values()), default=0),
        num_parameters=sum(math.prod(info.shape) for info in tensors.values()),
        targets=plan.targets,
        base_model_name=config.base_model_name,
        dtype=dtype_of(tensors),
        direct=is_direct(config, plan, tensors),
        num_virtual_tokens=config.options.get("num_virtual_tokens", 0),
        top_token=_top_token(plan, tensors, base),
    )


def dtype_of(tensors: Mapping[str, TensorInfo]) -> str:
    """The safetensors name of all tensors' dtype, or "mixed"."""
    dtypes = {info.dtype for info in tensors.values()}
    return dtypes.pop() if len(dtypes) == 1 else "mixed"


def is_direct(config: AdapterConfig, plan: Plan, names: Collection[str]) -> bool:
    """Whether its normal form needs neither the base's weights nor a conversion."""
    needs_base = config.options.get("use_dora") or config.bias != "none"
    return config.kind.direct and not needs_base and not set(plan.optional) & set(names)


def _kind_name(config: AdapterConfig) -> str:
    """What listings call it: DoRA is a setting of LoRA to PEFT and a kind of its own to everyone else."""
    return "dora" if config.options.get("use_dora") else config.kind.name


def _top_token(plan: Plan, tensors: Mapping[str, TensorInfo], base: BaseShapes) -> int:
    """The highest token that the adapter adds, -1 if it adds none."""
    rows = [token for ids in plan.token_ids.values() for token in ids]
    tables = [
        tensors[name].shape[0] - 1
        for name, claim in {**plan.optional, **plan.claims}.items()
        if name in tensors and (claim.grows or claim.part == CARRIED)
    ]
    top = max([*rows, *tables], default=-1)
    return top if top >= base.vocab_size else -1
