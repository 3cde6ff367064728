"""`lorikeet loadtest kernels`: each kernel beside bitsandbytes, cuBLAS and the floor, on a CUDA device."""

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from loadtests.figures import LoadTestError, finite, print_table
from loadtests.floors import copy_bandwidth
from loadtests.synthetic import SHAPES, config_of
from server.engine.config import check_options, option
from server.kernels import int8, nf4
from server.model.layers import DenseWeight, Weight
from server.model.step import FUSED

# Weights are used in turn, so that none is found in the device's cache of 50 MB.
COLD_BYTES = 256 << 20
# A product is wrong if it is further than this from float64's, of its largest entry.
TOLERANCE = 0.02
Product = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True, kw_only=True)
class KernelConfig:
    model: str = option("8b", "shape of the base", choices=tuple(SHAPES))
    tokens: str = option("1,8,16,32,64,128,192,256,1024", "rows of x")
    json: str = option("", "file for all figures")

    def __post_init__(self) -> None:
        """Raises ValueError with every option that cannot be."""
        check_options(self)


@dataclass(frozen=True)
class KernelTime:
    """Microseconds of one product; error: the largest, of the largest entry."""

    linear: str
    tokens: int
    name: str
    microseconds: float
    floor: float
    error: float


def run(config: KernelConfig) -> int:
    """0 if every product is right."""
    if not torch.cuda.is_available():
        raise LoadTestError("the kernels are for a CUDA device, and there is none here")
    device = torch.device("cuda")
    bandwidth = copy_bandwidth(device)
    times: list[KernelTime] = []
    for linear, (rows, width) in linears(config.model).items():
        times += measure_linear(linear, rows, width, [int(t) for t in config.tokens.split(",")], bandwidth)
    report(times, bandwidth)
    if config.json:
        Path(config.json).write_text(json.dumps(finite([asdict(each) for each in times]), indent=2) + "\n")
    return 0 if all(each.error < TOLERANCE for each in times) else 1


def linears(model: str) -> dict[str, tuple[int, int]]:
    """The decoder's linears: name -> (out, in)."""
    shapes = config_of(model).linear_shapes()
    parts = {name: [shapes[f"model.layers.0.{part}"] for part in FUSED[name]] for name in FUSED}
    return {name: (sum(rows for rows, _ in each), each[0][1]) for name, each in parts.items()}


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
            error = _error(product(x, 0), x, exact)
            seconds = graph_seconds(partial(product, x), copies)
            floor = (num_bytes + x.nbytes + count * rows * 2) / bandwidth
            times.append(KernelTime(linear, count, name, seconds * 1e6, floor * 1e6, error))
    return times


def _contenders(dense: Tensor) -> dict[str, tuple[Product, int, float, Tensor]]:
    """name -> (product of x and the i-th copy, copies, bytes of one, the exact weight)."""
    from server.kernels.int8_fused import FusedInt8Weight
    from server.kernels.nf4_tiled import TiledNf4Weight

    quantized, rounded = nf4.quantize(dense, double_quant=False), int8.quantize(dense)
    nf4_bytes, int8_bytes = quantized.codes.nbytes * (1 + 2 / 32), rounded.codes.nbytes
    nf4_exact, int8_exact = quantized.dequantize(torch.float32), rounded.dequantize(torch.float32)

    def copies(num_bytes: float) -> int:
        return max(2, int(COLD_BYTES // num_bytes))

    def ours(weight: Weight, num_bytes: float) -> tuple[Product, int]:
        weights = [_copy(weight) for _ in range(copies(num_bytes))]
        return lambda x, i: weights[i].linear(x, None), len(weights)

    peers = [
        nf4.Nf4Weight(quantized.codes.clone(), quantized.absmax.clone()) for _ in range(copies(nf4_bytes))
    ]
    shape = tuple(dense.shape)

    def bitsandbytes(x: Tensor, i: int) -> Tensor:
        codes, absmax = peers[i].codes.view(-1, 1), peers[i].absmax.view(-1)
        y: Tensor = torch.ops.bitsandbytes.gemm_4bit(x, codes, shape, absmax, nf4.BLOCK, "nf4")
        return y

    def bitsandbytes_int8(x: Tensor, i: int) -> Tensor:
        codes, absmax, _ = torch.ops.bitsandbytes.int8_vectorwise_quant(x.half(), 0.0)
        sums = torch.ops.bitsandbytes.int8_linear_matmul(codes, rounded.codes)
        y: Tensor = torch.ops.bitsandbytes.int8_mm_dequant(sums, absmax, rounded.absmax)
        return y

    return {
        "nf4": (*ours(TiledNf4Weight.of(quantized), nf4_bytes), nf4_bytes, nf4_exact),
        "nf4, bitsandbytes": (bitsandbytes, len(peers), nf4_bytes, nf4_exact),
        "int8": (*ours(FusedInt8Weight.of(rounded), int8_bytes), int8_bytes, int8_exact),
        "int8, bitsandbytes": (bitsandbytes_int8, 1, int8_bytes, int8_exact),
        "bf16, cuBLAS": (*ours(DenseWeight(dense), dense.nbytes), dense.nbytes, dense.float()),
    }


def _copy(weight: Weight) -> Weight:
    from dataclasses import fields, replace

    tensors = {f.name: v.clone() for f in fields(weight) if isinstance(v := getattr(weight, f.name), Tensor)}  # type: ignore[arg-type]
    return replace(weight, **tensors)  # type: ignore[type-var, no-any-return]


def _error(y: Tensor, x: Tensor, weight: Tensor) -> float:
    """Not a number where y holds one."""
    exact = F.linear(x.double(), weight.double())
    return float((y.double() - exact).abs().max() / exact.abs().max())


def graph_seconds(work: Callable[[int], object], copies: int, repeats: int = 5) -> float:
    """Of one call, launched back to back from a CUDA graph; each call takes the next copy of its weights."""
    calls = max(16, copies)
    for i in range(calls):
        work(i % copies)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(calls):
            work(i % copies)
    times: list[float] = []
    for _ in range(repeats):
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended) / 1e3 / calls)
    return statistics.median(times)


def report(times: list[KernelTime], bandwidth: float) -> None:
    rows = [
        (
            each.linear,
            str(each.tokens),
            each.name,
            f"{each.microseconds:.1f}",
            f"{each.floor:.1f}",
            f"{each.microseconds / each.floor:.2f}",
            f"{each.error:.4f}" if each.error < TOLERANCE else f"{each.error:.4f} WRONG",
        )
        for each in times
    ]
    title = f"Products on {torch.cuda.get_device_name()} (copies {bandwidth / 1e12:.2f} TB/s)"
    print_table(title, ("linear", "tokens", "kernel", "us", "floor us", "ratio", "error"), rows)
