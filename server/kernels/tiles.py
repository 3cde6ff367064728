"""Cuts a step's tokens into tiles of one adapter each, for `SlotBatch`."""

import numpy as np
from numpy.typing import NDArray

# Rows of a tile of one adapter: where every sequence decodes, which is what the decode kernels take, and in
# other steps.
DECODE_ROWS, CHUNK_ROWS = 8, 64


def make_tiles(slots: NDArray[np.integer], tile_rows: int) -> NDArray[np.int32]:
    """[n, 3] int32 (slot, first row, count <= tile_rows) from [tokens] slots, sorted; slot 0 is in none."""
    if slots.size == 0:
        return np.empty((0, 3), np.int32)
    starts = np.concatenate(([0], np.flatnonzero(slots[1:] != slots[:-1]) + 1))
    ends = np.append(starts[1:], slots.size)
    adapted = slots[starts] != 0
    starts, ends = starts[adapted], ends[adapted]
    num_tiles = -(-(ends - starts) // tile_rows)
    run = np.repeat(np.arange(starts.size), num_tiles)
    nth = np.arange(run.size) - np.repeat(np.cumsum(num_tiles) - num_tiles, num_tiles)
    first = starts[run] + nth * tile_rows
    count = np.minimum(ends[run] - first, tile_rows)
    return np.stack((slots[first], first, count), axis=1).astype(np.int32)
