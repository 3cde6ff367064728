"""The device's side of a step on kernels: one copy to the device, and mostly one replayed graph."""

import logging
from dataclasses import replace

import torch
from torch import Tensor

from server.engine.batch import sort_by_slot
from server.engine.beyond import Beyond, beyond_pairs, write_prefixes
from server.engine.graphs import Graphs, bucket_of, chunk_buckets
from server.engine.paged import MOST_DECODES, Ints, Layout, most_ints, pack
from server.engine.runner import Launched, rows_of
from server.engine.sampler import Drawn, Row, draw, is_greedy
from server.engine.sequence import Chosen
from server.engine.slots import AdapterSlots
from server.engine.transfer import Transfers
from server.kernels.background import Background
from server.kernels.fused_cuda import greedy
from server.kernels.lora import AdapterMemory
from server.kernels.nvrtc import context_of_this_thread
from server.model.decoder import Decoder, KvCache
from server.model.foreseen import foreseen
from server.model.linears import SlotLora
from server.model.step import Step

log = logging.getLogger(__name__)


class PagedRunner:
    """Steps of decodes, and those with some hundred tokens of prompts, are graphs; others are launched
    kernel by kernel.
    """

    def __init__(
        self,
        decoder: Decoder,
        cache: KvCache,
        block_size: int,
        slots: AdapterSlots,
        memory: AdapterMemory,
        max_running: int,
        step_tokens: int,
        max_context: int,
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._block_size = block_size
        self._slots = slots
        self._memory = memory
        device = decoder.embedding.device
        self._step_tokens = step_tokens
        size = most_ints(max_running, step_tokens, -(-max_context // block_size))
        self._transfers = Transfers(size, device)
        # The tokens of the step before, which the host may not know yet.
        rows = max(max_running, MOST_DECODES)
        self._previous = torch.zeros(rows, dtype=torch.int32, device=device)
        # Beside the graphs' capture, which waits for its own kernels alone, and after it.
        wanted = foreseen(decoder, memory, block_size, max_running)
        self._kernels = Background(wanted, context_of_this_thread())
        self.graphs = Graphs(self._forward, self._transfers.array, max_running)
        self._too_large: set[Layout] = set()
        # What steps with chunks will need, and nobody has asked for yet.
        self._ahead = layouts_ahead(step_tokens)

    @torch.inference_mode()
    def launch(self, chosen: list[Chosen]) -> Launched:
        chosen = sort_by_slot(chosen)
        beyond = beyond_pairs(chosen, self._slots.blob, self._decoder.config)
        write_prefixes(chosen, self._slots.blob, self._cache, self._block_size)
        bucket = bucket_of(chosen, self._step_tokens) if beyond.fits_graph else None
        ints, layout = pack(chosen, bucket, beyond.adjusts)
        if bucket is not None and self._is_captured(layout):
            self._transfers.send(ints)
            logits, tokens = self.graphs.replay(layout)
        elif beyond.fits_graph:
            logits, tokens = self._forward(layout, self._transfers.send(ints))
        else:
            return self._launch_beyond(chosen, beyond, layout, ints)
        rows = rows_of(chosen)
        if not rows:
            return Launched(chosen, None)
        return Launched(chosen, self._draw(logits[: len(rows)], tokens[: len(rows)], rows).sent())

    @torch.inference_mode()
    def rest(self) -> None:
        if self._ahead and self._kernels.is_done:
            self._is_captured(self._ahead.pop())

    def close(self) -> None:
        self._kernels.close()

    def _is_captured(self, layout: Layout) -> bool:
        """By now, that is; where memory is short its steps go on without a graph."""
        if layout in self.graphs or layout in self._too_large:
            return layout in self.graphs
        try:
            self.graphs.add(layout, kept=self._previous)
        except torch.OutOfMemoryError:
            log.warning("no memory is left for the graph of steps of %d tokens", layout.tokens)
            self._too_large.add(layout)
        return layout in self.graphs

    def _forward(self, layout: Layout, ints: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [sampled, vocab] and the likeliest tokens [sampled], which the next step may look up."""
        logits = self._decoder.forward(self._step(layout, ints), self._cache)
        tokens = greedy(logits)
        self._previous[: tokens.shape[0]].copy_(tokens)
        return logits, tokens

    def _launch_beyond(self, chosen: list[Chosen], beyond: Beyond, layout: Layout, ints: Ints) -> Launched:
        """No graph; what adapters bring beside their linears is plain torch."""
        step = replace(self._step(layout, self._transfers.send(ints)), whole=beyond.whole)
        if isinstance(step.lora, SlotLora):
            step = replace(step, lora=replace(step.lora, split=beyond.split))
        logits = self._decoder.forward(step, self._cache)
        rows = rows_of(chosen)
        if not rows:
            return Launched(chosen, None)
        drawn = draw(logits, rows)
        self._previous[: len(rows)].copy_(drawn.tokens)
        return Launched(chosen, drawn.sent())

    def _step(self, layout: Layout, ints: Tensor) -> Step:
        return layout.step(ints, self._block_size, self._memory, self._previous)

    def _draw(self, logits: Tensor, tokens: Tensor, rows: list[Row]) -> Drawn:
        """What the rows ask for, given their likeliest tokens."""
        if is_greedy(rows):
            return Drawn(rows, tokens)
        drawn = draw(logits, rows)
        self._previous[: len(rows)].copy_(drawn.tokens)
        return drawn


def layouts_ahead(step_tokens: int) -> list[Layout]:
    """Of steps with chunks, the likeliest last: short contexts, few tokens."""
    buckets = sorted(chunk_buckets(step_tokens), key=lambda bucket: (bucket.context, bucket.tokens))
    return [bucket.layout(True) for bucket in reversed(buckets)]
