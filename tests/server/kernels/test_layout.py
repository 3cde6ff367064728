"""Where codes and scales stand in tiles, and how the int8 kernels' lanes make them bfloat16."""

import re
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from server.kernels import layout
from server.kernels.int8 import Int8Weight
from server.kernels.nf4 import BLOCK, Nf4Weight

FORMAT = Path(layout.__file__).parent / "cuda" / "format_int8.cuh"


def nf4_weight(rows: int, width: int) -> Nf4Weight:
    generator = torch.Generator().manual_seed(rows + width)
    codes = torch.randint(0, 256, (rows, width // 2), generator=generator, dtype=torch.uint8)
    return Nf4Weight(codes, torch.rand(rows, width // BLOCK, generator=generator) + 0.01)


def nf4_codes_of(tiles: Tensor, rows: int, width: int) -> Tensor:
    """[rows, width] by the words of TiledWeight's docstring, one entry after another."""
    codes = torch.full((rows, width), 255, dtype=torch.uint8)
    for tile, group, lane, byte in np.ndindex(rows // 16, width // 64, 32, 16):
        g, t, step, half, row = lane // 4, lane % 4, byte // 4, byte // 2 % 2, byte % 2
        value = int(tiles[tile, group, 0, lane, byte])
        at = tile * 16 + g + 8 * row, group * 64 + 16 * step + 8 * half + 2 * t
        codes[at] = value & 15
        codes[at[0], at[1] + 1] = value >> 4
    return codes


def int8_codes_of(tiles: Tensor, rows: int, width: int) -> Tensor:
    codes = torch.zeros(rows, width, dtype=torch.int8)
    for tile, group, share, lane, byte in np.ndindex(rows // 16, width // 64, 2, 32, 16):
        g, t, step, half, column, row = lane // 4, lane % 4, byte // 8, byte // 4 % 2, byte // 2 % 2, byte % 2
        at = group * 64 + 16 * (2 * share + step) + 8 * half + 2 * t + column
        codes[tile * 16 + g + 8 * row, at] = tiles[tile, group, share, lane, byte]
    return codes


def test_tiles_hold_every_code_where_the_layout_says() -> None:
    weight = nf4_weight(32, 128)
    unpacked = torch.stack((weight.codes >> 4, weight.codes & 15), dim=2).view(32, 128)
    assert torch.equal(nf4_codes_of(layout.nf4_tiles(weight.codes), 32, 128), unpacked)
    codes = torch.randint(-128, 128, (48, 192), dtype=torch.int8)
    assert torch.equal(int8_codes_of(layout.int8_tiles(codes), 48, 192), codes)


def test_scales_stand_beside_their_tiles_and_missing_columns_are_zeros() -> None:
    absmax = nf4_weight(32, 320).absmax
    scales = layout.nf4_scales(absmax)
    assert scales.shape == (2, 2, 8, 4, 2)
    for tile, quad, g, group, row in np.ndindex(*scales.shape):
        column = quad * 4 + group
        expected = absmax[tile * 16 + g + 8 * row, column].half() if column < 5 else 0.0
        assert scales[tile, quad, g, group, row] == expected


def test_gate_and_up_take_turns_by_tiles_and_int8_scales_stay_with_their_rows() -> None:
    assert layout.in_turns(torch.arange(6)).tolist() == [0, 3, 1, 4, 2, 5]
    weight = Int8Weight(torch.randint(-127, 128, (64, 64), dtype=torch.int8), torch.rand(64))
    codes, scales, _ = layout.tiled_int8(weight, pairs=True)
    order = [*range(16), *range(32, 48), *range(16, 32), *range(48, 64)]
    assert torch.equal(int8_codes_of(codes, 64, 64), weight.codes[order])
    assert torch.equal(scales, weight.absmax / 127)


def test_a_row_of_zeros_has_a_scale_for_what_adapters_add() -> None:
    weight = Int8Weight(torch.zeros(16, 64, dtype=torch.int8), torch.zeros(16))
    assert layout.tiled_int8(weight, pairs=False)[1].tolist() == [1.0] * 16


def bf16(bits: NDArray[np.uint32]) -> NDArray[np.float32]:
    return (bits << np.uint32(16)).view(np.float32)


def test_every_code_becomes_its_own_bfloat16() -> None:
    """The arithmetic of pair_of in format_int8.cuh, with the masks that stand there."""
    masks = [
        int(mask, 16)
        for pair in re.findall(r"and_or\(codes, (\w+), (\w+)\)", FORMAT.read_text())
        for mask in pair
    ]
    low, base, sign, same = masks
    assert base == same and low & sign == 0
    codes = np.arange(-128, 128, dtype=np.int8)
    first, second = (grid.ravel().view(np.uint8).astype(np.uint32) for grid in np.meshgrid(codes, codes))
    # Bytes 1 and 3 are another row's: whatever they hold, they leave no trace.
    word = first | second << 16 | 0xFF00AB00
    more, less = word & low | base, word & sign | base
    for half, expected in ((0, first), (16, second)):
        value = bf16(more >> half & 0xFFFF) - bf16(less >> half & 0xFFFF)
        assert np.array_equal(value, expected.astype(np.uint8).view(np.int8).astype(np.float32))
        assert np.array_equal(value.view(np.uint32) & 0xFFFF, np.zeros_like(word)), "not a bfloat16"
