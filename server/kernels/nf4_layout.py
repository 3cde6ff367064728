"""How the codes and scales of an NF4 weight are laid out for the tensor cores (see TiledNf4Weight)."""

import torch.nn.functional as F
from torch import Tensor

from server.kernels.nf4 import BLOCK

# Rows of a tile.
TILE = 16


def tile(codes: Tensor) -> Tensor:
    """[out, in / 2], two codes a byte, high nibble first -> the order of TiledNf4Weight."""
    rows, width = codes.shape[0], codes.shape[1] * 2
    # tile, row half, g, group, step, column half, t
    parts = codes.view(rows // TILE, 2, 8, width // BLOCK, 4, 2, 4).permute(0, 3, 2, 6, 4, 5, 1)
    swapped = (parts << 4) | (parts >> 4)
    return swapped.reshape(rows // TILE, width // BLOCK, 32, 16).contiguous()


def tile_scales(absmax: Tensor) -> Tensor:
    """[out, in / 64] -> the order of TiledNf4Weight; columns that are not there get zeros."""
    padded = F.pad(absmax.half(), (0, -absmax.shape[1] % 4))
    parts = padded.view(-1, 2, 8, padded.shape[1] // 4, 4)
    return parts.permute(0, 3, 2, 4, 1).contiguous()


def in_turns(tiles: Tensor) -> Tensor:
    """The first of gate's, the first of up's, the second of gate's ..."""
    return tiles.view(2, -1, *tiles.shape[1:]).transpose(0, 1).reshape(tiles.shape).contiguous()
