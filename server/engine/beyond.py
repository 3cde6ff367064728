"""What a step's adapters bring beside low-rank pairs: vectors, rows computed anew, keys that come ready."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch

from server.engine.sequence import Chosen
from server.kernels.adjust import RowChanges
from server.kernels.lora import Segment
from server.model.adapter import AdapterBlob
from server.model.config import ModelConfig
from server.model.decoder import KvCache
from server.model.packs import Place, changes_of
from server.model.whole import WholeRows, WholeStep

# The adapter of a digest, on the device.
BlobOf = Callable[[str], AdapterBlob]


@dataclass(frozen=True)
class Beyond:
    """adjusts: whether some adapter has vectors. whole, split: what makes a step no graph.

    split: where linears that are one in the decoder need inputs of their own.
    """

    adjusts: bool = False
    whole: WholeStep | None = None
    split: dict[Place, list[RowChanges]] = field(default_factory=dict)

    @property
    def fits_graph(self) -> bool:
        return self.whole is None and not self.split


PLAIN = Beyond()


def beyond_pairs(chosen: list[Chosen], blob_of: BlobOf, config: ModelConfig) -> Beyond:
    """Of a step of `chosen`, as sorted by slot."""
    adapters = {choice.sequence.request.adapter for choice in chosen}
    blobs = [blob_of(adapter) for adapter in adapters if adapter]
    if all(blob.is_plain for blob in blobs):
        return PLAIN
    return Beyond(
        adjusts=any(blob.vectors for blob in blobs),
        whole=_whole_step(chosen, blob_of, config.vocab_size),
        split=_split_inputs(chosen, blob_of, config),
    )


def _whole_step(chosen: list[Chosen], blob_of: BlobOf, of_base: int) -> WholeStep | None:
    """None where linears are all that the step's adapters change."""
    members, known, first = [], of_base, 0
    for segment, choices, blob in _by_adapter(chosen, blob_of):
        last = first + sum(choice.samples for choice in choices)
        if blob is not None and any(_is_whole(choice, blob) for choice in choices):
            members.append(WholeRows(segment.start, segment.end, first, last, blob.weights))
            known = max(known, blob.vocab_size)
        first = last
    return WholeStep(members, known) if members else None


def _split_inputs(
    chosen: list[Chosen], blob_of: BlobOf, config: ModelConfig
) -> dict[Place, list[RowChanges]]:
    found: dict[Place, list[RowChanges]] = {}
    for segment, _, blob in _by_adapter(chosen, blob_of):
        if blob is not None and blob.has_split_inputs:
            for place, changes in changes_of(blob, config).items():
                if place[1] in ("qkv", "gate_up"):
                    found.setdefault(place, []).append(RowChanges(segment, changes))
    return found


def _by_adapter(
    chosen: list[Chosen], blob_of: BlobOf
) -> Iterator[tuple[Segment, list[Chosen], AdapterBlob | None]]:
    """The rows of each adapter, and of the base, whose blob is None."""
    start = 0
    for index, (adapter, group) in enumerate(groupby(chosen, lambda choice: choice.sequence.request.adapter)):
        choices = list(group)
        end = start + sum(choice.num_tokens for choice in choices)
        yield Segment(start, end, index), choices, blob_of(adapter) if adapter else None
        start = end


def write_prefixes(chosen: list[Chosen], blob_of: BlobOf, cache: KvCache, block_size: int) -> None:
    """Keys and values that come with an adapter go to its sequences' first cells, where they are due."""
    for choice in chosen:
        if choice.written:
            prefix = blob_of(choice.sequence.request.adapter).weights.prefix
            assert prefix is not None and prefix.keys_values is not None, "an adapter lacks its keys"
            begin = choice.start - choice.written
            places = np.arange(begin, choice.start)
            blocks = np.array(choice.sequence.blocks, dtype=np.int64)[places // block_size]
            cells = torch.from_numpy(blocks * block_size + places % block_size).to(cache.keys[0].device)
            for layer, (keys, values) in enumerate(prefix.keys_values[:, :, begin : choice.start]):
                cache.keys[layer].index_copy_(0, cells, keys)
                cache.values[layer].index_copy_(0, cells, values)


def _is_whole(choice: Chosen, blob: AdapterBlob) -> bool:
    """Prompts that were learnt matter only while they are computed; ready keys do not even then."""
    weights = blob.weights
    computes_prompt = choice.start < choice.sequence.request.num_virtual
    learnt = weights.prefix is not None and weights.prefix.embeddings is not None and computes_prompt
    return bool(weights.embedding or weights.head or weights.norms or learnt)
