"""A step for the device's kernels: everything the host has to say in one array of int32, and one copy.

token ids | positions | starts | contexts | block_at | slots | tiles | sampled | blocks ...
"""

from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from server.engine.batch import ids_of
from server.engine.sequence import Chosen
from server.kernels.attention import PagedPlan
from server.kernels.lora import AdapterMemory, SlotBatch
from server.kernels.tiles import CHUNK_ROWS, DECODE_ROWS, make_tiles
from server.model.linears import SlotLora
from server.model.step import Step

Ints = NDArray[np.int32]
# Decode steps of more rows are no business of the decode kernels.
MOST_DECODES = 64


@dataclass(frozen=True)
class Layout:
    """How many of each the array holds; equal layouts have equal places in it."""

    tokens: int
    sequences: int
    tiles: int
    tile_rows: int
    # Rows whose next token is wanted; None: every row's.
    sampled: int | None
    # Whether some adapter has vectors.
    adjusts: bool = False
    longest: int = 1
    total_context: int = 0
    longest_context: int = 0

    def sizes(self) -> tuple[int, ...]:
        n, t = self.sequences, self.tokens
        return (t, t, n + 1, n, n, t, 3 * self.tiles, self.sampled or 0)

    def step(self, array: Tensor, block_size: int, memory: AdapterMemory | None, previous: Tensor) -> Step:
        """Views of the array [ints] on the device."""
        *fields, blocks = array.split([*self.sizes(), array.numel() - sum(self.sizes())])
        token_ids, positions, starts, contexts, block_at, slots, tiles, sampled = fields
        plan = PagedPlan(
            starts,
            contexts,
            block_at,
            blocks,
            block_size,
            self.longest,
            self.total_context,
            self.longest_context,
        )
        lora = None
        if memory is not None and self.tiles:
            lora = SlotLora(memory, SlotBatch(slots, tiles.view(-1, 3), self.tile_rows), self.adjusts)
        rows = None if self.sampled is None else sampled
        return Step(token_ids, positions, plan, lora, rows, previous)


def decode_layout(bucket: int, has_adapters: bool, adjusts: bool = False) -> Layout:
    """Of a step of decodes that is padded to `bucket` rows."""
    return Layout(bucket, bucket, bucket if has_adapters else 0, DECODE_ROWS, None, adjusts)


def most_ints(max_running: int, step_tokens: int, most_blocks: int) -> int:
    """That any step can need, if a sequence has at most `most_blocks`."""
    tokens = max(step_tokens, max_running, MOST_DECODES)
    return 3 * tokens + (7 + most_blocks) * max(max_running, MOST_DECODES) + 3 * (tokens + 1) + 1


def pack(chosen: list[Chosen], bucket: int | None = None, adjusts: bool = False) -> tuple[Ints, Layout]:
    """`chosen` as sorted by slot. bucket: decodes are padded to so many rows, each with a tile of its own.

    adjusts: whether some adapter of theirs has vectors.
    """
    lengths = np.array([c.num_tokens for c in chosen])
    contexts = np.array([c.start + c.num_tokens for c in chosen])
    slots = np.repeat([c.sequence.slot or 0 for c in chosen], lengths)
    decodes = bool((lengths == 1).all())
    tile_rows = DECODE_ROWS if decodes and len(chosen) <= MOST_DECODES else CHUNK_ROWS
    tiles = make_tiles(slots, tile_rows)
    blocks = [c.sequence.blocks for c in chosen]
    block_at = np.cumsum([0, *(len(each) for each in blocks)])[:-1]
    starts = np.cumsum([0, *lengths])
    sampled = [int(end) - 1 for c, end in zip(chosen, starts[1:], strict=True) if c.samples]
    ids = [ids_of(c) for c in chosen]
    offsets = np.arange(len(slots)) - np.repeat(starts[:-1], lengths)
    positions = np.repeat(contexts - lengths, lengths) + offsets
    pad = 0 if bucket is None else bucket - len(chosen)
    fields = [
        _padded(list(chain.from_iterable(ids)), pad),
        _padded(positions, pad),
        np.concatenate((starts, starts[-1] + np.arange(1, pad + 1))),
        _padded(contexts, pad),
        _padded(block_at, pad),
        _padded(slots, pad),
        _padded(tiles.reshape(-1), 3 * (bucket - len(tiles)) if bucket is not None and len(tiles) else 0),
        [] if len(sampled) == len(slots) else sampled,
        list(chain.from_iterable(blocks)),
    ]
    layout = Layout(
        tokens=len(slots) + pad,
        sequences=len(chosen) + pad,
        tiles=bucket if bucket is not None and len(tiles) else len(tiles),
        tile_rows=tile_rows,
        sampled=None if len(sampled) == len(slots) else len(sampled),
        adjusts=adjusts,
        longest=int(lengths.max()),
        total_context=0 if decodes else int(contexts.sum()),
        longest_context=0 if decodes else int(contexts.max()),
    )
    return np.concatenate([np.asarray(field, dtype=np.int32) for field in fields]), layout


def _padded(values: NDArray[np.integer] | list[int], count: int) -> Ints:
    return np.concatenate((np.asarray(values, dtype=np.int32), np.zeros(count, dtype=np.int32)))
