"""The small operations between the linears, a kernel each (CUDA, bf16); the slow twins are in fused.py."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from server.kernels import nvrtc
from server.kernels.background import Wanted

# Blocks that look through one row of logits.
PARTS = 16


def add_rms_norm(x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(norm(x + residual), x + residual), [tokens, hidden]; residual is overwritten."""
    normed = torch.empty_like(x)
    arguments = _NormArguments(normed.data_ptr(), residual.data_ptr(), x.data_ptr(), weight.data_ptr(), eps)
    _kernel("add_rms_norm", x.shape[1]).launch((x.shape[0], 1, 1), arguments)
    return normed, residual


def silu_mul(gate_up: Tensor) -> Tensor:
    """[tokens, 2 * ffn] -> silu(gate) * up [tokens, ffn]."""
    tokens, ffn = gate_up.shape[0], gate_up.shape[1] // 2
    out = gate_up.new_empty(tokens, ffn)
    kernel = _kernel("silu_mul", ffn)
    blocks = -(-ffn // (8 * kernel.threads))
    kernel.launch((blocks, tokens, 1), _SiluArguments(out.data_ptr(), gate_up.data_ptr()))
    return out


def embed(token_ids: Tensor, previous: Tensor | None, table: Tensor) -> Tensor:
    """token_ids [tokens] int32 -> rows of table; -(r + 1) stands for previous[r] (int32)."""
    x = table.new_empty(token_ids.shape[0], table.shape[1])
    before = None if previous is None else previous.data_ptr()
    arguments = _EmbedArguments(x.data_ptr(), token_ids.data_ptr(), before, table.data_ptr())
    _kernel("embed", table.shape[1]).launch((x.shape[0], 1, 1), arguments)
    return x


def greedy(logits: Tensor) -> Tensor:
    """logits [rows, vocab] bf16 -> [rows] int32: the likeliest (first among equals); -1 if not finite."""
    rows, vocab = logits.shape
    keys = torch.empty(rows, PARTS, dtype=torch.int64, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.int32, device=logits.device)
    _greedy_kernel("greedy", vocab).launch(
        (PARTS, rows, 1), _PairArguments(keys.data_ptr(), logits.data_ptr())
    )
    _greedy_kernel("choose", vocab).launch((rows, 1, 1), _PairArguments(tokens.data_ptr(), keys.data_ptr()))
    return tokens


def foreseen(hidden: int, ffn: int, vocab: int) -> list[Wanted]:
    """The kernels that steps of such a model may ask for."""
    wide = {"add_rms_norm": hidden, "embed": hidden, "silu_mul": ffn}
    wanted: list[Wanted] = [(_kernel, each) for each in wide.items()]
    return wanted + [(_greedy_kernel, (name, vocab)) for name in ("greedy", "choose")]


@cache
def _kernel(name: str, hidden: int) -> nvrtc.Kernel:
    """A thread takes 8 columns, or more of wide rows."""
    threads = min(512, -(-hidden // 256) * 32)
    macros = {"HIDDEN": hidden, "THREADS": threads}
    return nvrtc.load("elementwise", macros, threads, overlaps=True, name=name)


@cache
def _greedy_kernel(name: str, vocab: int) -> nvrtc.Kernel:
    macros = {"VOCAB": vocab, "PARTS": PARTS, "THREADS": 256}
    return nvrtc.load("greedy", macros, 256 if name == "greedy" else 32, overlaps=True, name=name)


class _NormArguments(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("normed", "residual", "x", "weight")] + [
        ("eps", ctypes.c_float)
    ]


class _SiluArguments(ctypes.Structure):
    _fields_ = [("out", ctypes.c_void_p), ("gate_up", ctypes.c_void_p)]


class _EmbedArguments(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("x", "token_ids", "previous", "table")]


class _PairArguments(ctypes.Structure):
    _fields_ = [("out", ctypes.c_void_p), ("source", ctypes.c_void_p)]
