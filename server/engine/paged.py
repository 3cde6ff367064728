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
# Of a padded step with chunks; the last is padding.
CHUNK_SEQUENCES = 65


@dataclass(frozen=True)
class Bucket:
    """To what a step is padded. context: of all its chunks together; 0: every sequence decodes.

    Rows that pad belong to sequences that pad, and these touch no cache.
    """

    tokens: int
    context: int = 0

    @property
    def sequences(self) -> int:
        return CHUNK_SEQUENCES if self.context else self.tokens

    @property
    def tiles(self) -> int:
        """Of adapters, each of which may leave one unfilled."""
        return self.tokens // CHUNK_ROWS + CHUNK_SEQUENCES - 1 if self.context else self.tokens

    @property
    def sampled(self) -> int | None:
        return CHUNK_SEQUENCES - 1 if self.context else None

    def layout(self, has_adapters: bool, adjusts: bool = False) -> "Layout":
        """Steps with chunks are long enough to have room for adapters whether there are any or not."""
        return Layout(
            tokens=self.tokens,
            sequences=self.sequences,
            tiles=self.tiles if has_adapters or self.context else 0,
            tile_rows=CHUNK_ROWS if self.context else DECODE_ROWS,
            sampled=self.sampled,
            adjusts=adjusts,
            longest=self.tokens if self.context else 1,
            total_context=self.context,
            longest_context=self.context,
        )


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


def most_ints(max_running: int, step_tokens: int, most_blocks: int) -> int:
    """That any step can need, padded to a bucket of `step_tokens` or not, if a sequence has `most_blocks`."""
    tokens = max(step_tokens, max_running, MOST_DECODES)
    return 3 * tokens + (7 + most_blocks) * max(max_running, CHUNK_SEQUENCES) + 3 * (tokens + 1) + 1


def pack(chosen: list[Chosen], bucket: Bucket | None = None, adjusts: bool = False) -> tuple[Ints, Layout]:
    """`chosen` as sorted by slot, and no more than fit the bucket.

    adjusts: whether some adapter of theirs has vectors.
    """
    lengths = np.array([c.num_tokens for c in chosen])
    contexts = np.array([c.start + c.num_tokens for c in chosen])
    slots = np.repeat([c.sequence.slot or 0 for c in chosen], lengths)
    blocks = [c.sequence.blocks for c in chosen]
    starts = np.cumsum([0, *lengths])
    sampled = [int(end) - 1 for c, end in zip(chosen, starts[1:], strict=True) if c.samples]
    decodes = bool((lengths == 1).all()) and len(chosen) <= MOST_DECODES
    tile_rows = DECODE_ROWS if decodes and not (bucket and bucket.context) else CHUNK_ROWS
    tiles = make_tiles(slots, tile_rows)
    if bucket is None:
        layout = _layout_of(lengths, contexts, (len(tiles), tile_rows), len(sampled), adjusts)
    else:
        layout = bucket.layout(len(tiles) > 0, adjusts)
    offsets = np.arange(len(slots)) - np.repeat(starts[:-1], lengths)
    n, t = layout.sequences, layout.tokens
    fields = [
        _padded(list(chain.from_iterable(map(ids_of, chosen))), t),
        _padded(np.repeat(contexts - lengths, lengths) + offsets, t),
        np.concatenate((starts, _ends(len(slots), t, n - len(chosen)))),
        _padded(contexts, n),
        _padded(np.cumsum([0, *(len(each) for each in blocks)])[:-1], n),
        _padded(slots, t),
        _padded(tiles.reshape(-1), 3 * layout.tiles),
        _padded([] if layout.sampled is None else sampled, layout.sampled or 0),
        list(chain.from_iterable(blocks)),
    ]
    return np.concatenate([np.asarray(field, dtype=np.int32) for field in fields]), layout


def _layout_of(
    lengths: NDArray[np.integer],
    contexts: NDArray[np.integer],
    tiles: tuple[int, int],
    sampled: int,
    adjusts: bool,
) -> Layout:
    """Of a step that is not padded. tiles: how many, and of how many rows."""
    tokens, of_chunks = int(lengths.sum()), contexts[lengths > 1]
    return Layout(
        tokens=tokens,
        sequences=len(lengths),
        tiles=tiles[0],
        tile_rows=tiles[1],
        sampled=None if sampled == tokens else sampled,
        adjusts=adjusts,
        longest=int(lengths.max()),
        total_context=int(of_chunks.sum()),
        longest_context=int(of_chunks.max(initial=0)),
    )


def _ends(begin: int, end: int, sequences: int) -> Ints:
    """Of so many sequences that share the rows from `begin` to `end`."""
    return (begin + (end - begin) * np.arange(1, sequences + 1) // max(sequences, 1)).astype(np.int32)


def _padded(values: NDArray[np.integer] | list[int], length: int) -> Ints:
    padded = np.zeros(length, dtype=np.int32)
    padded[: len(values)] = values
    return padded
