"""The device's side of a step on kernels: one copy to the device, one replayed graph where all decode."""

import torch

from server.engine.batch import sort_by_slot
from server.engine.graphs import Graphs, bucket_of
from server.engine.paged import MOST_DECODES, Layout, most_ints, pack
from server.engine.runner import Launched, rows_of
from server.engine.sampler import Drawn, Row, draw, is_greedy
from server.engine.scheduler import Chosen
from server.engine.transfer import Transfers
from server.kernels.fused_cuda import greedy
from server.kernels.lora import AdapterMemory
from server.model.decoder import Decoder, KvCache


class PagedRunner:
    """Steps in which every sequence decodes are graphs; others are launched kernel by kernel."""

    def __init__(
        self,
        decoder: Decoder,
        cache: KvCache,
        block_size: int,
        memory: AdapterMemory,
        max_running: int,
        step_tokens: int,
        max_context: int,
    ) -> None:
        self._decoder = decoder
        self._cache = cache
        self._block_size = block_size
        self._memory = memory
        device = decoder.embedding.device
        size = most_ints(max_running, step_tokens, -(-max_context // block_size))
        self._transfers = Transfers(size, device)
        # The tokens of the step before, which the host may not know yet.
        rows = max(max_running, MOST_DECODES)
        self._previous = torch.zeros(rows, dtype=torch.int32, device=device)
        self._graphs = Graphs(self._forward, self._transfers.array, max_running)

    @torch.inference_mode()
    def launch(self, chosen: list[Chosen]) -> Launched:
        chosen = sort_by_slot(chosen)
        bucket = bucket_of(chosen)
        ints, layout = pack(chosen, bucket)
        sent = self._transfers.send(ints)
        logits, tokens = self._forward(layout, sent) if bucket is None else self._graphs.replay(layout)
        rows = rows_of(chosen)
        if not rows:
            return Launched(chosen, None)
        return Launched(chosen, self._draw(logits[: len(rows)], tokens[: len(rows)], rows).sent())

    def _forward(self, layout: Layout, ints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [sampled, vocab] and the likeliest tokens [sampled], which the next step may look up."""
        step = layout.step(ints, self._block_size, self._memory, self._previous)
        logits = self._decoder.forward(step, self._cache)
        tokens = greedy(logits)
        self._previous[: tokens.shape[0]].copy_(tokens)
        return logits, tokens

    def _draw(self, logits: torch.Tensor, tokens: torch.Tensor, rows: list[Row]) -> Drawn:
        if is_greedy(rows):
            return Drawn(rows, tokens)
        drawn = draw(logits, rows)
        self._previous[: len(rows)].copy_(drawn.tokens)
        return drawn
