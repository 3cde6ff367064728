"""What a step cannot be faster than: the bytes it must read, at the speed at which the device copies."""

import time
from collections.abc import Callable

import torch

from server.model.config import ModelConfig

WEIGHT_BYTES = {"nf4": 0.5 + 2 / 64, "int8": 1.0, "none": 2.0}


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The shortest of several runs."""
    times = []
    for _ in range(repeats + 1):
        synchronize(device)
        begun = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second, read and written, of one large copy."""
    size = 1 << 31 if device.type == "cuda" else 1 << 27
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / seconds_of(lambda: target.copy_(source), device)


def step_bytes(
    config: ModelConfig, quantization: str, batch: int, adapter_bytes: int, context: int, element_size: int
) -> float:
    """That a decode step must read: each linear once, the head, the step's adapters, every context.

    adapter_bytes: of all adapters in the step. context: tokens of each sequence.
    """
    per_weight = WEIGHT_BYTES[quantization] if quantization != "none" else element_size
    linears = sum(rows * width for rows, width in config.linear_shapes().values()) * per_weight
    head = config.vocab_size * config.hidden_size * element_size
    cache = batch * context * 2 * config.num_layers * config.kv_size * element_size
    return linears + head + adapter_bytes + cache
