"""How codes and scales of quantized weights are laid out for the tensor cores (see TiledWeight)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from server.kernels.int8 import Int8Weight
from server.kernels.nf4 import BLOCK, Nf4Weight

# Rows of a tile, and columns of a unit of it.
TILE, GROUP = 16, 64
assert GROUP == BLOCK, "a unit of NF4 has one scale a row"


def nf4_tiles(codes: Tensor) -> Tensor:
    """[out, in / 2], two codes a byte, high nibble first -> the order of TiledWeight."""
    rows, width = codes.shape[0], codes.shape[1] * 2
    # tile, row half, g, group, step, column half, t
    parts = codes.view(rows // TILE, 2, 8, width // GROUP, 4, 2, 4).permute(0, 3, 2, 6, 4, 5, 1)
    swapped = (parts << 4) | (parts >> 4)
    return swapped.reshape(rows // TILE, width // GROUP, 1, 32, 16).contiguous()


def int8_tiles(codes: Tensor) -> Tensor:
    """[out, in] -> the order of TiledWeight."""
    rows, width = codes.shape
    # tile, row half, g, group, two steps, step, column half, t, column
    parts = codes.view(rows // TILE, 2, 8, width // GROUP, 2, 2, 2, 4, 2)
    ordered = parts.permute(0, 3, 4, 2, 7, 5, 6, 8, 1)
    return ordered.reshape(rows // TILE, width // GROUP, 2, 32, 16).contiguous()


def nf4_scales(absmax: Tensor) -> Tensor:
    """[out, in / 64] -> the order of TiledWeight; columns that are not there get zeros."""
    padded = F.pad(absmax.half(), (0, -absmax.shape[1] % 4))
    parts = padded.view(-1, 2, 8, padded.shape[1] // 4, 4)
    return parts.permute(0, 3, 2, 4, 1).contiguous()


def in_turns(tiles: Tensor) -> Tensor:
    """The first of gate's, the first of up's, the second of gate's ..."""
    return tiles.view(2, -1, *tiles.shape[1:]).transpose(0, 1).reshape(tiles.shape).contiguous()


def tiled_nf4(weight: Nf4Weight, pairs: bool) -> tuple[Tensor, Tensor, float]:
    """Codes, scales and their gain."""
    gain = 2.0 ** (math.frexp(float(weight.absmax.max()) or 1.0)[1] - 15)
    codes, scales = nf4_tiles(weight.codes), nf4_scales(weight.absmax / gain)
    return (in_turns(codes), in_turns(scales), gain) if pairs else (codes, scales, gain)


def tiled_int8(weight: Int8Weight, pairs: bool) -> tuple[Tensor, Tensor, float]:
    """Codes, scales and 1. A row of zeros gets a scale too: updates are added in units of it."""
    codes = int8_tiles(weight.codes)
    scales = torch.where(weight.absmax == 0, 1.0, weight.absmax / 127)
    return (in_turns(codes) if pairs else codes), scales, 1.0
