"""Low-rank updates of many adapters in one step of many rows, for CUDA devices.

    t[split, token, part, r] = x[token, k of split] A^T      one launch for all parts that share x
    y[token, column + n]    += (sum of t over splits) B^T     one launch, each y read and written once

Both run over (tile of one adapter's rows) x (shapes), so a grid depends on tensor shapes alone; ranks are
read on the device. Sums are in float32 and in a fixed order; t is rounded to the weights' dtype before it is
multiplied, as the twin does, and y once after the addition.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from server.kernels.background import Wanted
from server.kernels.device import can_begin_early
from server.kernels.lora import AdapterMemory, Part, SlotBatch
from server.kernels.lora_jit import LONG_ROWS, SHORT_ROWS, expand_kernel, shrink_kernel
from server.kernels.tiles import CHUNK_ROWS

MAX_PARTS = 3
# Programs that a device runs at the same time, roughly; fewer should not be launched.
MANY_PROGRAMS = 528
MANY_TILES = 96


def lora_add(
    y: Tensor,
    x: Tensor,
    memory: AdapterMemory,
    batch: SlotBatch,
    layer: int,
    parts: tuple[Part, ...],
) -> None:
    """y [tokens, out] += the update of each token's adapter to x [tokens, in], in place.

    parts: consecutive linears that share x, at most 3. Rows in no tile are not touched.
    """
    if batch.tiles.shape[0] == 0:
        return
    for call in _calls(y, x, memory, batch, layer, parts):
        call.kernel[call.grid](*call.arguments, **call.options)


def foreseen(memory: AdapterMemory, parts: tuple[Part, ...], width_out: int, width_in: int) -> list[Wanted]:
    """What updates of any number of rows in long tiles ask for: the splits of x are all that differs."""
    tiles = {_split(count, width_in, True)[0]: count for count in (1, MANY_TILES)}
    return [(_load, (memory, parts, width_out, width_in, count)) for count in tiles.values()]


def _load(
    memory: AdapterMemory, parts: tuple[Part, ...], width_out: int, width_in: int, num_tiles: int
) -> None:
    """Compiles and loads both kernels; nothing runs."""
    x, y = memory.weights.new_empty(1, width_in), memory.weights.new_empty(1, width_out)
    tiles = memory.places.new_empty(num_tiles, 3)
    batch = SlotBatch(memory.places.new_empty(1), tiles, CHUNK_ROWS)
    for call in _calls(y, x, memory, batch, 0, parts):
        compiled = call.kernel.warmup(*call.arguments, grid=call.grid, **call.options)
        # The binary is loaded when its launcher is first looked up.
        assert compiled.run is not None


@dataclass(frozen=True)
class _Call:
    kernel: Any
    grid: tuple[int, int]
    arguments: tuple[Any, ...]
    options: dict[str, Any]


def _calls(
    y: Tensor, x: Tensor, memory: AdapterMemory, batch: SlotBatch, layer: int, parts: tuple[Part, ...]
) -> tuple[_Call, _Call]:
    """Shrink, then expand."""
    num_tiles = batch.tiles.shape[0]
    first, widths, columns = _check(y, x, memory, batch, parts)
    tokens, width_in = x.shape
    has_long = batch.tile_rows > SHORT_ROWS.value
    splits, span_in = _split(num_tiles, width_in, has_long)
    span_out = 512 if num_tiles * sum(widths) >= 512 * MANY_PROGRAMS else 128
    # As wide as ranks can be: a place beyond would be another token's.
    max_rank = triton.cdiv(memory.max_rank, 16) * 16
    t = torch.empty((splits, tokens, len(parts), max_rank), dtype=torch.float32, device=x.device)
    is_half, pdl = x.dtype.itemsize == 2, can_begin_early(x.device)
    place = (max_rank, layer, memory.places.shape[1], first, len(parts))
    shrink = _Call(
        shrink_kernel,
        (num_tiles, splits),
        (t, x, memory.weights, memory.places, batch.tiles, x.stride(0), tokens, width_in, span_in, *place),
        {"HAS_LONG": has_long, "BLOCK_K": 128 if is_half else 64, "PDL": pdl, "launch_pdl": pdl}
        | {"num_warps": 4, "num_stages": 3 if is_half else 1},
    )
    expand = _Call(
        expand_kernel,
        (sum(triton.cdiv(width, span_out) for width in widths), num_tiles),
        (y, t, memory.weights, memory.places, batch.tiles, y.stride(0), tokens, span_out, *place)
        + (*widths, *columns),
        {"HAS_LONG": has_long, "SPLITS": splits, "PDL": pdl, "launch_pdl": pdl}
        | {"num_warps": 4, "num_stages": 2, "maxnreg": 168 if is_half and has_long else None},
    )
    return shrink, expand


def _check(
    y: Tensor, x: Tensor, memory: AdapterMemory, batch: SlotBatch, parts: tuple[Part, ...]
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """(first part, MAX_PARTS widths, as many columns); absent parts are 0 wide."""
    first = parts[0].index
    assert len(parts) <= MAX_PARTS and batch.tile_rows <= LONG_ROWS.value
    assert all(part.index == first + i for i, part in enumerate(parts))
    assert all(part.column + part.width <= y.shape[1] for part in parts)
    assert x.stride(1) == y.stride(1) == 1
    assert memory.weights.dtype == x.dtype and memory.places.is_contiguous()
    absent = (0,) * (MAX_PARTS - len(parts))
    return first, (*(p.width for p in parts), *absent), (*(p.column for p in parts), *absent)


def _split(num_tiles: int, width_in: int, has_long: bool) -> tuple[int, int]:
    """(how many programs share a tile's columns of x, how many columns each takes).

    Of a few values only, because each is a kernel to compile.
    """
    splits = 8 if not has_long else 2 if num_tiles >= MANY_TILES else 4
    while splits > 1 and splits * 256 > width_in:
        splits //= 2
    return splits, triton.cdiv(triton.cdiv(width_in, splits), 256) * 256
