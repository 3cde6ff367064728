"""The device's side of a step: decoder, KV cache, packed adapters, sampler."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from server.engine.batch import build_step, sort_by_slot
from server.engine.beyond import beyond_pairs, write_prefixes
from server.engine.sampler import Drawn, Row, Sampled, draw
from server.engine.sequence import Chosen, Sequence
from server.engine.slots import AdapterSlots
from server.model.decoder import Decoder, KvCache
from server.model.packs import Packs, pack


@dataclass(frozen=True)
class Launched:
    """A step under way. chosen: in the order in which it samples."""

    chosen: list[Chosen]
    drawn: Drawn | None

    def fetch(self) -> dict[int, Sampled]:
        """The next token of every sequence whose last one the step reaches, by sequence id; waits for it."""
        return {} if self.drawn is None else self.drawn.fetch()


class Runner(Protocol):
    def launch(self, chosen: list[Chosen]) -> Launched:
        """Begins a step."""

    def rest(self) -> None:
        """Makes use of a turn in which nothing is to be done, for less than a second."""

    def close(self) -> None:
        """Ends what it does beside steps."""


def rows_of(chosen: list[Chosen]) -> list[Row]:
    return [_row(choice.sequence) for choice in chosen if choice.samples]


def _row(sequence: Sequence) -> Row:
    request, history, num_prompt = sequence.request, sequence.tokens, sequence.num_prompt
    if request.num_virtual:
        # What was never said is no part of what penalties look at.
        history, num_prompt = history[request.num_virtual :], num_prompt - request.num_virtual
    return Row(sequence.id, request.sampling, history, num_prompt)


class TorchRunner:
    """Plain torch: every step as it comes, on any device."""

    def __init__(self, decoder: Decoder, cache: KvCache, block_size: int, slots: AdapterSlots) -> None:
        self._decoder = decoder
        self._cache = cache
        self._block_size = block_size
        self._slots = slots
        # The packs of the last step's adapters: consecutive steps mostly run the same ones.
        self._packed_for: tuple[str, ...] = ()
        self._packs: Packs | None = None
        # The tokens of the step before.
        self._previous: Tensor | None = None

    @torch.inference_mode()
    def launch(self, chosen: list[Chosen]) -> Launched:
        chosen = sort_by_slot(chosen)
        packs = self._packs_of(chosen)
        device = self._decoder.embedding.device
        blob_of, config = self._slots.blob, self._decoder.config
        write_prefixes(chosen, blob_of, self._cache, self._block_size)
        step = build_step(chosen, packs, self._block_size, device, self._previous)
        step = replace(step, whole=beyond_pairs(chosen, blob_of, config).whole)
        logits = self._decoder.forward(step, self._cache)
        rows = rows_of(chosen)
        if not rows:
            return Launched(chosen, None)
        drawn = draw(logits, rows)
        self._previous = drawn.tokens
        return Launched(chosen, drawn.sent())

    def rest(self) -> None:
        """Nothing is prepared."""

    def close(self) -> None:
        """Nothing runs beside its steps."""

    def _packs_of(self, chosen: list[Chosen]) -> Packs | None:
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
