"""x A^T of every adapter in a decode step: what comes of a low-rank update before the base's linear."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from server.kernels import nvrtc
from server.kernels.background import Wanted
from server.kernels.device import processors
from server.kernels.slot_update import SlotUpdate

# Warps of a block, and groups of 64 columns that each of them has on their way at once.
MOST_WARPS, AHEAD = 16, 4


def shrink(x: Tensor, update: SlotUpdate) -> Tensor:
    """x [tokens, in] bf16, contiguous -> [tokens, parts, max_rank] float32.

    What stands beyond a token's rank, or in rows of the base, is undefined.
    """
    memory, batch, parts = update.memory, update.batch, len(update.parts)
    stride = -(-memory.max_rank // 8) * 8
    t = torch.empty(x.shape[0], parts, stride, dtype=torch.float32, device=x.device)
    tiles = batch.tiles.shape[0]
    cluster, warps = _variant(x.shape[1], tiles, parts)
    arguments = _ShrinkArguments(
        t.data_ptr(),
        x.data_ptr(),
        _AdapterArguments(
            memory.weights.data_ptr(),
            memory.places.data_ptr() + _first_place(update),
            update.slot_stride,
            stride,
        ),
        batch.tiles.data_ptr(),
        x.shape[1],
    )
    _kernel(cluster, warps, memory.max_rank).launch((cluster, parts, tiles), arguments)
    return t


def foreseen(width: int, parts: int, max_rank: int, most_tiles: int) -> list[Wanted]:
    """The kernels that steps of up to `most_tiles` tiles may ask for."""
    variants = {_variant(width, tiles, parts) for tiles in range(1, most_tiles + 1)}
    return [(_kernel, (*variant, max_rank)) for variant in sorted(variants)]


def _variant(width: int, tiles: int, parts: int) -> tuple[int, int]:
    """(blocks that split K, warps of each)."""
    cluster = _cluster(width // 64, tiles * parts)
    return cluster, _warps(width // 64, cluster, cluster * tiles * parts)


def _cluster(groups: int, tasks: int) -> int:
    """Blocks that split K: many where tasks are few, but no more clusters than run at once."""
    if groups <= MOST_WARPS * AHEAD or nvrtc.capability() < (9, 0):
        return 1
    wanted = 8 if tasks <= 8 else 4 if tasks <= 56 else 2 if tasks <= 128 else 1
    return min(wanted, 1 << (groups // 8).bit_length() - 1)


def _warps(groups: int, cluster: int, blocks: int) -> int:
    """Of a block: more where blocks are few and each has much to read."""
    is_wide = groups >= MOST_WARPS * AHEAD * cluster
    return MOST_WARPS if is_wide and blocks <= processors().count else MOST_WARPS // 2


@cache
def _kernel(cluster: int, warps: int, max_rank: int) -> nvrtc.Kernel:
    macros = {"CLUSTER": cluster, "WARPS": warps, "MAX_RANK": max_rank}
    return nvrtc.load("lora_shrink", macros, 32 * warps, cluster=cluster, overlaps=True)


def _first_place(update: SlotUpdate) -> int:
    """Bytes from a slot's or token's places to that of the first part."""
    return (update.layer * 7 + update.parts[0].index) * 16


class UpdateArguments(ctypes.Structure):
    """What the base's linear adds in its last step; all zero where nothing is to be added."""

    _fields_ = [
        ("t", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("weights", ctypes.c_void_p),
        ("token_stride", ctypes.c_int),
        ("stride", ctypes.c_int),
        ("parts", ctypes.c_int),
        ("second", ctypes.c_int),
        ("third", ctypes.c_int),
    ]


def update_arguments(update: SlotUpdate | None, t: Tensor | None) -> UpdateArguments:
    if update is None or t is None:
        return UpdateArguments(parts=1)
    assert update.batch.places is not None, "the step's adapters have not been located"
    columns = (*(part.column for part in update.parts), 0, 0)
    return UpdateArguments(
        t.data_ptr(),
        update.batch.places.data_ptr() + _first_place(update),
        update.memory.weights.data_ptr(),
        update.slot_stride,
        t.shape[2],
        t.shape[1],
        columns[1],
        columns[2],
    )


class _AdapterArguments(ctypes.Structure):
    _fields_ = [
        ("weights", ctypes.c_void_p),
        ("places", ctypes.c_void_p),
        ("slot_stride", ctypes.c_int),
        ("stride", ctypes.c_int),
    ]


class _ShrinkArguments(ctypes.Structure):
    _fields_ = [
        ("t", ctypes.c_void_p),
        ("x", ctypes.c_void_p),
        ("adapters", _AdapterArguments),
        ("tiles", ctypes.c_void_p),
        ("width", ctypes.c_int),
    ]
