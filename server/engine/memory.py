"""How the device's memory is divided at start: base, adapters, workspace, and the KV cache takes the rest."""

from dataclasses import dataclass, fields, is_dataclass

import psutil
import torch

from server.engine.config import EngineConfig
from server.model.config import ModelConfig
from server.model.decoder import Decoder

# What the KV cache may take of the memory that is left; the rest is for what nobody can foresee.
CACHE_SHARE = 0.95
CPU_CACHE_BYTES = 1 << 30
# CUDA graphs, loaded kernels and the libraries' own buffers.
LIBRARIES_BYTES = 3 << 29
USUAL_RANK = 16


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes; total is the device's."""

    device: str
    total: int
    base: int
    adapters: int
    workspace: int
    num_blocks: int
    block_size: int
    token_bytes: int
    adapter_slots: int

    @property
    def cache(self) -> int:
        return self.num_blocks * self.block_size * self.token_bytes

    def table(self) -> list[str]:
        """For the operator, at start."""
        tokens = self.num_blocks * self.block_size
        rows = [
            ("base", self.base, ""),
            ("adapters", self.adapters, f"up to {self.adapter_slots} at once"),
            ("workspace", self.workspace, "graphs and the largest step"),
            ("KV cache", self.cache, f"{tokens:,} tokens"),
        ]
        lines = [f"memory of {self.device}: {_size(self.total)}"]
        return lines + [f"  {name:<10} {_size(size)}  {note}".rstrip() for name, size, note in rows if size]


def plan_memory(config: EngineConfig, decoder: Decoder, max_context: int, step_tokens: int) -> MemoryPlan:
    """Raises ValueError with a sentence where something does not fit."""
    like, c = decoder.embedding, decoder.config
    base = sum(_tensor_bytes(decoder).values())
    token_bytes = 2 * c.num_layers * c.kv_size * like.element_size()
    if like.is_cuda:
        # What loading has left behind is room again.
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(like.device)
        adapters = adapter_bytes(config, c, like.element_size(), free)
        workspace = workspace_bytes(config, c, like.element_size(), step_tokens)
        left = int((free - adapters - workspace) * CACHE_SHARE)
        name = torch.cuda.get_device_name(like.device)
    else:
        total = psutil.virtual_memory().total
        adapters = workspace = 0
        enough = config.max_running * max_context * token_bytes
        left = min(CPU_CACHE_BYTES, psutil.virtual_memory().available // 4, enough)
        name = "this machine"
    num_blocks = (config.cache_tokens or left // token_bytes) // config.block_size
    if like.is_cuda and num_blocks < 1:
        raise ValueError(
            f"no memory is left on {name} for the KV cache: the base takes {_size(base).strip()} and adapters"
            f" {_size(adapters).strip()} of {_size(total).strip()}; give --adapter-memory less, or quantize"
        )
    return MemoryPlan(
        device=name,
        total=total,
        base=base,
        adapters=adapters,
        workspace=workspace,
        num_blocks=max(1, num_blocks),
        block_size=config.block_size,
        token_bytes=token_bytes,
        adapter_slots=config.adapter_slots,
    )


def adapter_bytes(config: EngineConfig, model: ModelConfig, size: int, free: int) -> int:
    """As configured; else every slot at the usual rank, or one adapter at the highest; a quarter at most.

    size: bytes of an element of activations and adapters.
    """
    if config.adapter_memory:
        return config.adapter_memory
    wanted = max(config.adapter_slots * USUAL_RANK, config.max_rank) * rank_bytes(model, size)
    return min(wanted, free // 4)


def rank_bytes(model: ModelConfig, size: int) -> int:
    """Of one rank of an adapter of all linears."""
    return sum(rows + width for rows, width in model.linear_shapes().values()) * size


def workspace_bytes(config: EngineConfig, model: ModelConfig, size: int, step_tokens: int) -> int:
    """The tensors that are alive at once in the largest step, and what libraries keep."""
    shapes = model.linear_shapes().values()
    widest = max(rows for rows, _ in shapes) * 4 + 6 * model.hidden_size
    largest_weight = 2 * max(rows * width for rows, width in shapes)
    # Sampling works on a few copies of the logits in float32.
    logits = config.max_running * model.vocab_size * 4 * 8
    return step_tokens * widest * size + largest_weight * size + logits + LIBRARIES_BYTES


def _tensor_bytes(value: object) -> dict[int, int]:
    """Address -> bytes of every tensor inside; one that is shared counts once."""
    if isinstance(value, torch.Tensor):
        return {value.data_ptr(): value.numel() * value.element_size()}
    if isinstance(value, list):
        parts = value
    elif is_dataclass(value):
        parts = [getattr(value, field.name) for field in fields(value)]
    else:
        return {}
    return {address: size for part in parts for address, size in _tensor_bytes(part).items()}


def _size(num_bytes: int) -> str:
    is_large = num_bytes >= 2**30
    return f"{num_bytes / 2 ** (30 if is_large else 20):8.2f} {'GiB' if is_large else 'MiB'}"
