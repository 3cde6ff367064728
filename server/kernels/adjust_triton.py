"""What some adapters do to a linear's output or input, for every row of a step at once (CUDA devices).

    y[token, column + n] = y * gain[n] + bias[n]      of each part that the token's adapter changes

The grid depends on shapes alone: a row finds its adapter's vectors by its slot, and one that has none is left
as it is, unread. The vectors are float32, and so is what is computed; y is rounded once. Twin: adjust.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from server.kernels.device import can_begin_early
from server.kernels.lora import AdapterMemory, Part, SlotBatch

BLOCK = 1024
MAX_PARTS = 3
# Places of a part's vectors in its row of AdapterMemory.extras.
GAIN, BIAS, INPUT_GAIN, NONE = 0, 1, 2, 3


def adjust(y: Tensor, memory: AdapterMemory, batch: SlotBatch, layer: int, parts: tuple[Part, ...]) -> None:
    """y [tokens, out] in place: every part's gain and bias. parts: consecutive, at most 3."""
    _launch(y, memory, batch, layer, parts, GAIN, BIAS)


def scale_input(x: Tensor, memory: AdapterMemory, batch: SlotBatch, layer: int, part: Part) -> None:
    """x [tokens, in] in place: the input gain of a linear of one part."""
    _launch(x, memory, batch, layer, (Part(part.index, 0, x.shape[1]),), INPUT_GAIN, NONE)


def _launch(
    y: Tensor,
    memory: AdapterMemory,
    batch: SlotBatch,
    layer: int,
    parts: tuple[Part, ...],
    gain: int,
    bias: int,
) -> None:
    assert memory.extras is not None and len(parts) <= MAX_PARTS and y.stride(1) == 1
    pdl, absent = can_begin_early(y.device), (0,) * (MAX_PARTS - len(parts))
    widths, columns = (*(p.width for p in parts), *absent), (*(p.column for p in parts), *absent)
    blocks = sum(triton.cdiv(part.width, BLOCK) for part in parts)
    place = (layer, memory.extras.shape[1], parts[0].index)
    _adjust[(blocks, y.shape[0])](
        y, memory.weights.view(torch.float32), memory.extras, batch.slots, y.stride(0), *place,
        *widths, *columns, UNIT=8 * memory.weights.element_size() // 4, GAIN_AT=gain, BIAS_AT=bias,
        WIDTH=BLOCK, PDL=pdl, num_warps=4, launch_pdl=pdl,
    )  # fmt: skip


# Slots stand in a step's one array, wherever its layout leaves them.
@triton.jit(do_not_specialize=["layer", "layers", "first_part"], do_not_specialize_on_alignment=["slots_ptr"])
def _adjust(
    y_ptr, vectors_ptr, extras_ptr, slots_ptr, y_stride, layer, layers, first_part,
    width0, width1, width2, column0, column1, column2,
    UNIT: tl.constexpr, GAIN_AT: tl.constexpr, BIAS_AT: tl.constexpr, WIDTH: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Program (WIDTH columns of one part, row)."""
    if PDL:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    row, nth = tl.program_id(1).to(tl.int64), tl.program_id(0)
    end0 = tl.cdiv(width0, WIDTH)
    end1 = end0 + tl.cdiv(width1, WIDTH)
    part = (nth >= end0).to(tl.int32) + (nth >= end1).to(tl.int32)
    slot = tl.load(slots_ptr + row)
    extras = extras_ptr + ((slot * layers + layer) * 7 + first_part + part) * 4
    # The last number of a row is always -1.
    gain_at, bias_at = tl.load(extras + GAIN_AT), tl.load(extras + BIAS_AT)
    if tl.maximum(gain_at, bias_at) < 0:
        return
    before = tl.where(part == 0, 0, tl.where(part == 1, end0, end1))
    width = tl.where(part == 0, width0, tl.where(part == 1, width1, width2))
    column = tl.where(part == 0, column0, tl.where(part == 1, column1, column2))
    n = (nth - before) * WIDTH + tl.arange(0, WIDTH)
    mask = n < width
    y_at = y_ptr + row * y_stride + column + n
    y = tl.load(y_at, mask=mask, other=0.0).to(tl.float32)
    # A vector that is not there is read as ones, or zeros, from nowhere.
    gain = tl.load(
        vectors_ptr + gain_at.to(tl.int64) * UNIT + n, mask=n < tl.where(gain_at < 0, 0, width), other=1.0
    )
    bias = tl.load(
        vectors_ptr + bias_at.to(tl.int64) * UNIT + n, mask=n < tl.where(bias_at < 0, 0, width), other=0.0
    )
    tl.store(y_at, (y * gain + bias).to(y_ptr.dtype.element_ty), mask=mask)
