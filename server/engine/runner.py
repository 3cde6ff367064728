"""The device's side of a step: decoder, KV cache, packed adapters, sampler."""

import torch

from server.engine.batch import build_step, sort_by_slot
from server.engine.sampler import Row, Sampled, sample
from server.engine.scheduler import Chosen
from server.engine.slots import AdapterSlots
from server.kernels.lora import LoraPack
from server.model.adapter import pack
from server.model.decoder import Decoder, KvCache


class Runner:
    def __init__(self, decoder: Decoder, cache: KvCache, block_size: int, slots: AdapterSlots) -> None:
        self._decoder = decoder
        self._cache = cache
        self._block_size = block_size
        self._slots = slots
        # The packs of the last step's adapters: consecutive steps mostly run the same ones.
        self._packed_for: tuple[str, ...] = ()
        self._packs: list[dict[str, LoraPack]] | None = None

    @torch.inference_mode()
    def run(self, chosen: list[Chosen]) -> dict[int, Sampled]:
        """The next token of every sequence whose last token the step reaches, by sequence id."""
        chosen = sort_by_slot(chosen)
        packs = self._packs_of(chosen)
        step = build_step(chosen, packs, self._block_size, self._decoder.embedding.device)
        logits = self._decoder.forward(step, self._cache)
        rows = [
            Row(c.sequence.id, c.sequence.request.sampling, c.sequence.tokens, c.sequence.num_prompt)
            for c in chosen
            if c.samples
        ]
        return sample(logits, rows) if rows else {}

    def _packs_of(self, chosen: list[Chosen]) -> list[dict[str, LoraPack]] | None:
        """Keyed by content digest, so a pack can never stand for another adapter than it was made of."""
        digests = tuple(dict.fromkeys(c.sequence.request.adapter for c in chosen if c.sequence.slot))
        if digests != self._packed_for:
            # The old packs go before the new ones are made.
            self._packs, self._packed_for = None, ()
            blobs = [self._slots.blob(digest) for digest in digests]
            self._packs = pack(blobs, self._decoder.config) if blobs else None
            self._packed_for = digests
        return self._packs


def make_cache(decoder: Decoder, num_blocks: int, block_size: int) -> KvCache:
    """Room for num_blocks * block_size tokens, in the decoder's dtype and on its device."""
    config, like = decoder.config, decoder.embedding
    shape = (num_blocks * block_size, config.num_kv_heads, config.head_dim)
    return KvCache(
        keys=[like.new_zeros(shape) for _ in decoder.layers],
        values=[like.new_zeros(shape) for _ in decoder.layers],
    )
