"""Decode steps as CUDA graphs: for a few batch sizes each without adapters, with, and with their vectors."""

from collections.abc import Callable

import torch
from torch import Tensor

from server.engine.paged import MOST_DECODES, Layout, decode_layout
from server.engine.sequence import Chosen

BUCKETS = (1, 2, 4, 8, 16, 24, 32, 48, MOST_DECODES)
# Logits and tokens of a step, from its layout and its ints on the device.
Forward = Callable[[Layout, Tensor], tuple[Tensor, Tensor]]


def bucket_of(chosen: list[Chosen]) -> int | None:
    """The rows to which a step is padded; None: it is no decode step, or too large a one."""
    if not all(choice.num_tokens == 1 and choice.samples for choice in chosen):
        return None
    return next((bucket for bucket in BUCKETS if bucket >= len(chosen)), None)


class Graphs:
    """Captured over padding that touches no cache: at start, and where adapters have vectors at first need.

    array: the ints of every step, at the place where the graphs read them.
    """

    def __init__(self, forward: Forward, array: Tensor, max_running: int) -> None:
        self._graphs: dict[Layout, torch.cuda.CUDAGraph] = {}
        self._outputs: dict[Layout, tuple[Tensor, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._forward = forward
        self._array = array
        largest = next((bucket for bucket in BUCKETS if bucket >= max_running), MOST_DECODES)
        # The largest first: the others find room in its memory.
        for bucket in sorted((b for b in BUCKETS if b <= largest), reverse=True):
            for has_adapters in (True, False):
                self._capture(decode_layout(bucket, has_adapters))

    def __contains__(self, layout: Layout) -> bool:
        return layout in self._graphs

    def add(self, layout: Layout, kept: Tensor) -> None:
        """Captures one more while steps run. kept: what the capture's own run must not change."""
        before = kept.clone()
        self._array.zero_()
        self._capture(layout)
        kept.copy_(before)

    def replay(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """What the step computes; valid until the next one is replayed."""
        self._graphs[layout].replay()
        return self._outputs[layout]

    @torch.inference_mode()
    def _capture(self, layout: Layout) -> None:
        # Kernels are compiled and loaded by a first run, which no capture may do.
        self._forward(layout, self._array)
        graph = torch.cuda.CUDAGraph()
        # Readers of adapters allocate pinned memory on other threads: no business of the capture's.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self._outputs[layout] = self._forward(layout, self._array)
        self._graphs[layout] = graph
