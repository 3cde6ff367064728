"""Steps as CUDA graphs: a few sizes, those of decodes without adapters, with, and with their vectors."""

from collections.abc import Callable, Iterator
from itertools import product

import torch
from torch import Tensor

from server.engine.paged import CHUNK_SEQUENCES, MOST_DECODES, Bucket, Layout
from server.engine.sequence import Chosen

DECODES = (1, 2, 4, 8, 16, 24, 32, 48, MOST_DECODES)
# Of steps with chunks: tokens, and those that all the chunks see.
CHUNK_TOKENS, CHUNK_CONTEXTS = (64, 128, 192, 256, 320, 512, 768, 1024), (4096, 16384)
# Logits and tokens of a step, from its layout and its ints on the device.
Forward = Callable[[Layout, Tensor], tuple[Tensor, Tensor]]


def bucket_of(chosen: list[Chosen], step_tokens: int) -> Bucket | None:
    """The smallest in which a step fits; None: it is no graph. step_tokens: of the largest step."""
    if all(choice.num_tokens == 1 and choice.samples for choice in chosen):
        return next((Bucket(rows) for rows in DECODES if rows >= len(chosen)), None)
    if len(chosen) >= CHUNK_SEQUENCES:
        return None
    tokens = sum(choice.num_tokens for choice in chosen)
    context = sum(choice.start + choice.num_tokens for choice in chosen if choice.num_tokens > 1)
    fitting = (b for b in chunk_buckets(step_tokens) if b.tokens >= tokens and b.context >= context)
    return next(fitting, None)


def chunk_buckets(step_tokens: int) -> Iterator[Bucket]:
    """Of steps with chunks, the smallest first; none is larger than a step can be."""
    for tokens, context in product(CHUNK_TOKENS, CHUNK_CONTEXTS):
        if tokens <= step_tokens:
            yield Bucket(tokens, context)


class Graphs:
    """Captured over padding that touches no cache: those of decodes at start, others when nothing else is to
    be done or at first need.

    array: the ints of every step, at the place where the graphs read them.
    """

    def __init__(self, forward: Forward, array: Tensor, max_running: int) -> None:
        self._graphs: dict[Layout, torch.cuda.CUDAGraph] = {}
        self._outputs: dict[Layout, tuple[Tensor, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._forward = forward
        self._array = array
        largest = next((rows for rows in DECODES if rows >= max_running), MOST_DECODES)
        # The largest first: the others find room in its memory.
        for rows in sorted((rows for rows in DECODES if rows <= largest), reverse=True):
            for has_adapters in (True, False):
                self._capture(Bucket(rows).layout(has_adapters))

    def __contains__(self, layout: Layout) -> bool:
        return layout in self._graphs

    def add(self, layout: Layout, kept: Tensor) -> None:
        """Captures one more while steps run. kept: what the capture's own run must not change."""
        before = kept.clone()
        self._array.zero_()
        try:
            self._capture(layout)
        finally:
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
