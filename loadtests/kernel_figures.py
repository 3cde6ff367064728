"""How long a kernel takes on a CUDA device with nothing in its cache, and how wrong it is."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# Weights are used in turn, so that none is found in the device's cache of 50 MB.
COLD_BYTES = 256 << 20


@dataclass(frozen=True)
class KernelTime:
    """Microseconds; error: the largest, of the largest entry of what is exact."""

    what: str
    tokens: int
    name: str
    microseconds: float
    floor: float
    error: float


def copies_of(num_bytes: float) -> int:
    """So many that the first has left the cache when it is its turn again."""
    return max(2, int(COLD_BYTES // num_bytes))


def error_of(y: Tensor, exact: Tensor) -> float:
    """Not a number where y holds one."""
    return float((y.double() - exact).abs().max() / exact.abs().max())


def graph_seconds(work: Callable[[int], object], copies: int, repeats: int = 5) -> float:
    """Of one call, launched back to back from a CUDA graph; each call takes the next copy of its weights."""
    calls = max(16, copies)
    for i in range(calls):
        work(i % copies)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            work(i % copies)
    times: list[float] = []
    for _ in range(repeats):
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended) / 1e3 / calls)
    return statistics.median(times)
