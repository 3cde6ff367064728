"""Products of a linear's weight, held in each way, beside those of other libraries."""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from loadtests.kernel_figures import KernelTime, copies_of, error_of, graph_seconds
from server.kernels import int8, nf4
from server.model.layers import DenseWeight, Weight

Product = Callable[[Tensor, int], Tensor]


@torch.inference_mode()
def measure_linear(
    linear: str, rows: int, width: int, tokens: list[int], bandwidth: float
) -> list[KernelTime]:
    dense = torch.randn(rows, width, dtype=torch.bfloat16, device="cuda") / width**0.5
    contenders = _contenders(dense)
    times = []
    for count in tokens:
        x = torch.randn(count, width, dtype=torch.bfloat16, device="cuda")
        for name, (product, copies, num_bytes, exact) in contenders.items():
            error = error_of(product(x, 0), F.linear(x.double(), exact.double()))
            seconds = graph_seconds(partial(product, x), copies)
            floor = (num_bytes + x.nbytes + count * rows * 2) / bandwidth
            times.append(KernelTime(linear, count, name, seconds * 1e6, floor * 1e6, error))
    return times


def _contenders(dense: Tensor) -> dict[str, tuple[Product, int, float, Tensor]]:
    """name -> (product of x and the i-th copy, copies, bytes of one, the exact weight)."""
    from server.kernels.tiled import TiledWeight

    quantized, rounded = nf4.quantize(dense, double_quant=False), int8.quantize(dense)
    nf4_bytes, int8_bytes = quantized.codes.nbytes * (1 + 2 / 32), rounded.codes.nbytes
    nf4_exact, int8_exact = quantized.dequantize(torch.float32), rounded.dequantize(torch.float32)

    def ours(weight: Weight, num_bytes: float) -> tuple[Product, int]:
        weights = [_copy(weight) for _ in range(copies_of(num_bytes))]
        return lambda x, i: weights[i].linear(x, None), len(weights)

    peers = [
        nf4.Nf4Weight(quantized.codes.clone(), quantized.absmax.clone()) for _ in range(copies_of(nf4_bytes))
    ]
    int8_peers = [rounded.codes.clone() for _ in range(copies_of(int8_bytes))]
    shape = tuple(dense.shape)

    def bitsandbytes(x: Tensor, i: int) -> Tensor:
        codes, absmax = peers[i].codes.view(-1, 1), peers[i].absmax.view(-1)
        y: Tensor = torch.ops.bitsandbytes.gemm_4bit(x, codes, shape, absmax, nf4.BLOCK, "nf4")
        return y

    def bitsandbytes_int8(x: Tensor, i: int) -> Tensor:
        codes, absmax, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(x.half(), 0.0)
        sums = torch.ops.bitsandbytes.int8_linear_matmul(codes, int8_peers[i])
        y: Tensor = torch.ops.bitsandbytes.int8_mm_dequant(sums, absmax, rounded.absmax)
        return y

    return {
        "nf4": (*ours(TiledWeight.of(quantized), nf4_bytes), nf4_bytes, nf4_exact),
        "nf4, bitsandbytes": (bitsandbytes, len(peers), nf4_bytes, nf4_exact),
        "int8": (*ours(TiledWeight.of(rounded), int8_bytes), int8_bytes, int8_exact),
        "int8, bitsandbytes": (bitsandbytes_int8, len(int8_peers), int8_bytes, int8_exact),
        "bf16, cuBLAS": (*ours(DenseWeight(dense), dense.nbytes), dense.nbytes, dense.float()),
    }


def _copy(weight: Weight) -> Weight:
    tensors = {f.name: v.clone() for f in fields(weight) if isinstance(v := getattr(weight, f.name), Tensor)}  # type: ignore[arg-type]
    return replace(weight, **tensors)  # type: ignore[type-var, no-any-return]
