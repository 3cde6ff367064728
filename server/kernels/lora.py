"""Low-rank updates of many adapters in one step: y[t] += (x[t] A_s^T) B_s, s the adapter of token t."""

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

# Up to this many tokens it is cheaper to multiply every token with every adapter's pair and mask
# than to launch two products for each adapter.
MASKED_UP_TO = 64


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens [start, end) of one adapter, which is the index-th of the pack."""

    start: int
    end: int
    index: int


@dataclass(frozen=True)
class LoraPack:
    """The pairs of every adapter in a step, for one linear of one layer, side by side.

    a: [rows, in]. b: [rows, out], scale included, zero outside the columns a pair may change.
    bounds: adapter i owns rows [bounds[i], bounds[i + 1]); an adapter without this linear owns none.
    """

    a: Tensor
    b: Tensor
    bounds: tuple[int, ...]


@dataclass(frozen=True)
class AdapterMemory:
    """All adapters on the device, for kernels that find an adapter by its slot.

    weights: [elements]. places: int32 [slots + 1, layers, 7, 4]: for q, k, v, o, gate, up, down of a layer
    (a_at, b_at, rank, 0), offsets in units of 8 elements; rank 0 where the adapter leaves the linear alone.
    The last number of a slot's first row is its generation.
    A is [rank, in] and B [out, rank rounded up to 8], both row-major, the scale folded into B.
    max_rank: no adapter's rank is higher.
    extras: int32 [slots + 1, layers, 7, 4] (gain_at, bias_at, input_gain_at, -1), where a linear's vectors of
    float32 stand, in the same units; -1 where there is none. None: no adapter has any.
    """

    weights: Tensor
    places: Tensor
    max_rank: int = 256
    extras: Tensor | None = None


@dataclass(frozen=True)
class SlotBatch:
    """Whose each token of a step is, tokens sorted by slot.

    slots: [tokens] int32, 0 is the base. tiles: [num_tiles, 3] int32 (slot, first row, count): runs of one
    adapter's tokens, at most tile_rows long; the base's tokens are in none, count 0 is padding.
    """

    slots: Tensor
    tiles: Tensor
    tile_rows: int
    places: Tensor | None = None

    def located(self, memory: AdapterMemory) -> "SlotBatch":
        """With `places`: [tokens, layers, 7, 4], each token's own rows of memory's."""
        return replace(self, places=memory.places.index_select(0, self.slots))


@dataclass(frozen=True)
class Part:
    """One of a layer's seven linears inside the decoder's fused one: columns [column, column + width)."""

    index: int
    column: int
    width: int


class Update(Protocol):
    """What the adapters of a step add to one linear of one layer."""

    def add(self, y: Tensor, x: Tensor) -> None:
        """y [tokens, out] += their updates of x [tokens, in], in place; the base's tokens stay untouched."""


def updated(y: Tensor, x: Tensor, update: Update | None) -> Tensor:
    """y [tokens, out], with what the adapters add for x [tokens, in]."""
    if update is not None:
        update.add(y, x)
    return y


def lora_add(y: Tensor, x: Tensor, pack: LoraPack, segments: list[Segment], mask: Tensor | None) -> None:
    """y [tokens, out] += the segments' updates of x [tokens, in], in place; other tokens stay untouched.

    mask: see `row_mask`; None where the segments are to be multiplied one by one.
    """
    if mask is None:
        for s in segments:
            start, end = pack.bounds[s.index], pack.bounds[s.index + 1]
            if start < end:
                y[s.start : s.end].addmm_(x[s.start : s.end] @ pack.a[start:end].T, pack.b[start:end])
    elif pack.bounds[-1]:
        y.addmm_((x @ pack.a.T).masked_fill_(mask, 0), pack.b)


def row_mask(
    num_tokens: int, bounds: tuple[int, ...], segments: list[Segment], device: torch.device
) -> Tensor | None:
    """[tokens, rows], True where the row is another adapter's than the token's; None if not worth it.

    A mask and not a factor: an adapter that overflows must not reach its neighbours as 0 * inf.
    """
    if num_tokens > MASKED_UP_TO or (
        len(segments) == 1 and segments[0].end - segments[0].start == num_tokens
    ):
        return None
    foreign = torch.ones(num_tokens, bounds[-1], dtype=torch.bool)
    for s in segments:
        foreign[s.start : s.end, bounds[s.index] : bounds[s.index + 1]] = False
    return foreign.to(device)
