"""Attention over the paged KV cache on a CUDA device (bf16); the slow twin is in attention.py.

Sequences of one token are one kernel. Longer chunks read their contexts gathered from the cache, through
torch's own variable-length attention.
"""

import ctypes
from functools import cache

import torch
from torch import Tensor

from server.kernels import nvrtc
from server.kernels.attention import Heads, PagedPlan
from server.kernels.background import Wanted

# Four blocks of so many run on a processor at once: their tiles of keys and values fit its shared memory.
WARPS = 3
Norms = tuple[Tensor, Tensor, float]


def attend(
    qkv: Tensor,
    heads: Heads,
    norms: Norms | None,
    rotary: tuple[Tensor, Tensor],
    positions: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    plan: PagedPlan,
) -> Tensor:
    """qkv [tokens, (heads + 2 kv heads) * dim] -> [tokens, heads * dim]; keys and values go to the caches.

    norms: weights [dim] of q's and k's norm before the rotation. rotary: cos and sin [max_context, dim / 2].
    positions: [tokens] int32. caches: [cells, kv heads, dim].
    """
    out = qkv.new_empty(qkv.shape[0], heads.num_heads * heads.dim)
    sequences = plan.contexts.shape[0]
    arguments = _Arguments(
        out.data_ptr(),
        qkv.data_ptr(),
        _rotation(rotary, norms),
        positions.data_ptr(),
        k_cache.data_ptr(),
        v_cache.data_ptr(),
        _PagesArguments(*(t.data_ptr() for t in (plan.starts, plan.contexts, plan.block_at, plan.blocks))),
        sequences,
    )
    has_norms = norms is not None
    if plan.longest > 1:
        _rotate_kernel(heads, plan.block_size, has_norms).launch((qkv.shape[0], 1, 1), arguments)
        out = _attend_chunks(out.view(-1, heads.num_heads, heads.dim), k_cache, v_cache, plan).flatten(1)
        arguments.out = out.data_ptr()
    splits = _splits(sequences * heads.num_kv_heads)
    kernel = _decode_kernel(heads, plan.block_size, has_norms, splits)
    kernel.launch((splits, heads.num_kv_heads, sequences), arguments)
    return out


def foreseen(heads: Heads, block_size: int, has_norms: bool, most_sequences: int) -> list[Wanted]:
    """The kernels that steps of up to `most_sequences` may ask for."""
    splits = {_splits(count * heads.num_kv_heads) for count in range(1, most_sequences + 1)}
    wanted: list[Wanted] = [(_decode_kernel, (heads, block_size, has_norms, each)) for each in sorted(splits)]
    return [*wanted, (_rotate_kernel, (heads, block_size, has_norms))]


def _attend_chunks(q: Tensor, k_cache: Tensor, v_cache: Tensor, plan: PagedPlan) -> Tensor:
    """q [tokens, heads, dim], rotated; each row sees its sequence up to itself. Rows of no chunk: zeros."""
    k, v = k_cache.index_select(0, plan.cells), v_cache.index_select(0, plan.cells)
    attention = torch.ops.aten._flash_attention_forward
    longest = plan.longest, plan.longest_context
    out: Tensor = attention(q, k, v, plan.starts, plan.ends, *longest, 0.0, True, False)[0]
    return out


def _splits(tasks: int) -> int:
    """Blocks that share a context: enough that all tasks together fill the device, by shapes alone."""
    if nvrtc.capability() < (9, 0):
        return 1
    return 8 if tasks <= 16 else 4 if tasks <= 64 else 2 if tasks <= 128 else 1


def _macros(heads: Heads, block_size: int, has_norms: bool, splits: int) -> dict[str, int | str]:
    return {
        "HEADS": heads.num_heads,
        "KV_HEADS": heads.num_kv_heads,
        "DIM": heads.dim,
        "BLOCK": block_size,
        "NORM": int(has_norms),
        "SPLITS": splits,
    }


@cache
def _decode_kernel(heads: Heads, block_size: int, has_norms: bool, splits: int) -> nvrtc.Kernel:
    group, dim = heads.num_heads // heads.num_kv_heads, heads.dim
    tiles, rows = WARPS * 2 * 2 * 16 * dim * 2, 2 * dim * 2 + 8 * (dim + 8) * 2
    shared = tiles + rows + group * dim * 4 + 2 * group * 4 + 2 * WARPS * 8 * 4
    macros = _macros(heads, block_size, has_norms, splits)
    return nvrtc.load("attention", macros, 32 * WARPS, shared, splits, True, name="decode_attention")


@cache
def _rotate_kernel(heads: Heads, block_size: int, has_norms: bool) -> nvrtc.Kernel:
    macros = _macros(heads, block_size, has_norms, 1)
    return nvrtc.load("attention", macros, 32 * WARPS, overlaps=True, name="rotate_and_store")


def _rotation(rotary: tuple[Tensor, Tensor], norms: Norms | None) -> "_RotationArguments":
    cos, sin = (table.data_ptr() for table in rotary)
    if norms is None:
        return _RotationArguments(cos, sin)
    q_norm, k_norm, eps = norms
    return _RotationArguments(cos, sin, q_norm.data_ptr(), k_norm.data_ptr(), eps)


class _RotationArguments(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("cos", "sin", "q_norm", "k_norm")] + [
        ("eps", ctypes.c_float)
    ]


class _PagesArguments(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("starts", "contexts", "block_at", "blocks")]


class _Arguments(ctypes.Structure):
    _fields_ = [
        ("out", ctypes.c_void_p),
        ("qkv", ctypes.c_void_p),
        ("rotation", _RotationArguments),
        ("positions", ctypes.c_void_p),
        ("keys", ctypes.c_void_p),
        ("values", ctypes.c_void_p),
        ("pages", _PagesArguments),
        ("sequences", ctypes.c_int),
    ]
