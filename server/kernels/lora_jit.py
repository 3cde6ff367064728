"""The two kernels of `lora_triton.py`, whose programs find ranks and places on the device."""

import triton
import triton.language as tl

# A tile of at most so many rows is short: its time is latency, so a program takes more columns of it at once.
SHORT_ROWS = tl.constexpr(16)
LONG_ROWS = tl.constexpr(64)


@triton.jit
def _rank_up(rank):
    """Rows of B are padded with zeros to a multiple of 8."""
    return (rank + 7) // 8 * 8


@triton.jit
def _pick(part, values):
    """values[part] of three, for a scalar or a tensor of parts."""
    return tl.where(part == 0, values[0], tl.where(part == 1, values[1], values[2]))


@triton.jit(
    do_not_specialize=["tokens", "layer", "layers", "first_part", "num_parts"],
    do_not_specialize_on_alignment=["tiles_ptr"],
)
def shrink_kernel(
    t_ptr, x_ptr, weights_ptr, places_ptr, tiles_ptr, x_stride, tokens, width_in, span,
    max_rank, layer, layers, first_part, num_parts,
    HAS_LONG: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (tile, split of x's columns)."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    tile_ptr = tiles_ptr + tl.program_id(0) * 3
    count = tl.load(tile_ptr + 2)
    if count == 0:
        return
    slot, first_row = tl.load(tile_ptr), tl.load(tile_ptr + 1).to(tl.int64)
    place = places_ptr + ((slot * layers + layer) * 7 + first_part) * 4
    has1, has2 = num_parts > 1, num_parts > 2
    a_at = tl.load(place), tl.load(place + 4, mask=has1, other=0), tl.load(place + 8, mask=has2, other=0)
    rank0 = tl.load(place + 2)
    rank1 = tl.load(place + 6, mask=has1, other=0)
    rank2 = tl.load(place + 10, mask=has2, other=0)
    end0 = _rank_up(rank0)
    end1 = end0 + _rank_up(rank1)
    end2 = end1 + _rank_up(rank2)
    if end2 == 0:
        return
    ranks, ends = (rank0, rank1, rank2), (end0, end1, end2)
    begin = tl.program_id(1) * span
    end = tl.minimum(begin + span, width_in)
    t_stride = num_parts * max_rank
    t_tile = t_ptr + (tl.program_id(1).to(tl.int64) * tokens + first_row) * t_stride
    x_tile = x_ptr + first_row * x_stride
    if HAS_LONG:
        if count > SHORT_ROWS:
            _shrink_tile(
                t_tile, t_stride, x_tile, x_stride, weights_ptr, width_in, a_at, ranks, ends, max_rank,
                count, begin, end, LONG_ROWS, BLOCK_K,
            )  # fmt: skip
        else:
            _shrink_tile(
                t_tile, t_stride, x_tile, x_stride, weights_ptr, width_in, a_at, ranks, ends, max_rank,
                count, begin, end, SHORT_ROWS, BLOCK_K,
            )  # fmt: skip
    else:
        _shrink_tile(
            t_tile, t_stride, x_tile, x_stride, weights_ptr, width_in, a_at, ranks, ends, max_rank,
            count, begin, end, SHORT_ROWS, BLOCK_K,
        )  # fmt: skip


@triton.jit
def _shrink_tile(
    t_tile, t_stride, x_tile, x_stride, weights_ptr, width_in, a_at, ranks, ends, max_rank,
    count, begin, end, BLOCK_M: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The ranks of all parts are one row of columns, taken 64 at a time."""
    row = tl.arange(0, BLOCK_M)
    row_mask = (row < count)[:, None]
    x_rows = (x_tile + row * x_stride)[:, None]
    for first_column in range(0, ends[2], 64):
        column = first_column + tl.arange(0, 64)
        part = (column >= ends[0]).to(tl.int32) + (column >= ends[1]).to(tl.int32)
        r = column - _pick(part, (0, ends[0], ends[1]))
        is_real = ((r < _pick(part, ranks)) & (column < ends[2]))[:, None]
        a_rows = (weights_ptr + _pick(part, a_at).to(tl.int64) * 8 + r * width_in)[:, None]
        acc = tl.zeros((BLOCK_M, 64), tl.float32)
        for k in range(begin, end, BLOCK_K):
            at = (k + tl.arange(0, BLOCK_K))[None, :]
            x = tl.load(x_rows + at, mask=row_mask & (at < end), other=0.0)
            a = tl.load(a_rows + at, mask=is_real & (at < end), other=0.0)
            acc = tl.dot(x, a.T, acc, input_precision="ieee")
        t_at = row[:, None] * t_stride + (part * max_rank + r)[None, :]
        tl.store(t_tile + t_at, acc, mask=row_mask & (column < ends[2])[None, :])


@triton.jit(
    do_not_specialize=["tokens", "layer", "layers", "first_part", "num_parts"],
    do_not_specialize_on_alignment=["tiles_ptr"],
)
def expand_kernel(
    y_ptr, t_ptr, weights_ptr, places_ptr, tiles_ptr, y_stride, tokens, span,
    max_rank, layer, layers, first_part, num_parts, width0, width1, width2, column0, column1, column2,
    HAS_LONG: tl.constexpr, SPLITS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (`span` columns of one part, tile)."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    tile_ptr = tiles_ptr + tl.program_id(1) * 3
    count = tl.load(tile_ptr + 2)
    if count == 0:
        return
    slot, first_row = tl.load(tile_ptr), tl.load(tile_ptr + 1).to(tl.int64)
    nth = tl.program_id(0)
    end0 = tl.cdiv(width0, span)
    end1 = end0 + tl.cdiv(width1, span)
    part = (nth >= end0).to(tl.int32) + (nth >= end1).to(tl.int32)
    place = places_ptr + ((slot * layers + layer) * 7 + first_part + part) * 4
    rank = tl.load(place + 2)
    if rank == 0:
        return
    end_rank = _rank_up(rank)
    b = weights_ptr + tl.load(place + 1).to(tl.int64) * 8
    begin = (nth - _pick(part, (0, end0, end1))) * span
    end = tl.minimum(begin + span, _pick(part, (width0, width1, width2)))
    y_tile = y_ptr + first_row * y_stride + _pick(part, (column0, column1, column2))
    t_stride = num_parts * max_rank
    t_tile = t_ptr + first_row * t_stride + part * max_rank
    split_stride = tokens.to(tl.int64) * t_stride
    if HAS_LONG:
        if count > SHORT_ROWS:
            _expand_tile(
                y_tile, y_stride, t_tile, t_stride, split_stride, b, end_rank, count, begin, end,
                LONG_ROWS, 128, SPLITS,
            )  # fmt: skip
        else:
            _expand_tile(
                y_tile, y_stride, t_tile, t_stride, split_stride, b, end_rank, count, begin, end,
                SHORT_ROWS, 512, SPLITS,
            )  # fmt: skip
    else:
        _expand_tile(
            y_tile, y_stride, t_tile, t_stride, split_stride, b, end_rank, count, begin, end,
            SHORT_ROWS, 256, SPLITS,
        )  # fmt: skip


@triton.jit
def _expand_tile(
    y_tile, y_stride, t_tile, t_stride, split_stride, b, end_rank, count, begin, end,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """y[:count, begin:end] += t B^T, 16 ranks and BLOCK_N columns at a time."""
    row = tl.arange(0, BLOCK_M)
    row_mask = (row < count)[:, None]
    # What the compiler would take out of the loop would fill the registers.
    for first_n in tl.range(begin, end, BLOCK_N, disable_licm=True):
        n = first_n + tl.arange(0, BLOCK_N)
        acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        for first_r in range(0, end_rank, 16):
            r = (first_r + tl.arange(0, 16))[None, :]
            rows = tl.load(b + n[:, None] * end_rank + r, mask=(n < end)[:, None] & (r < end_rank), other=0.0)
            t_at, t_mask = t_tile + row[:, None] * t_stride + r, row_mask & (r < end_rank)
            t = tl.load(t_at, mask=t_mask, other=0.0)
            for split in tl.static_range(1, SPLITS):
                t += tl.load(t_at + split * split_stride, mask=t_mask, other=0.0)
            acc = tl.dot(t.to(rows.dtype), rows.T, acc, input_precision="ieee")
        # Read last: held from the start, it would take the registers of another program.
        y_at, y_mask = y_tile + row[:, None] * y_stride + n[None, :], row_mask & (n < end)[None, :]
        y = tl.load(y_at, mask=y_mask, other=0.0)
        tl.store(y_at, (y.to(tl.float32) + acc).to(y.dtype), mask=y_mask)
