"""A decode step's linear with an adapter for each token, beside torch's batched products."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from loadtests.floors import synchronize
from loadtests.kernel_figures import KernelTime, copies_of, error_of, graph_seconds
from loadtests.synthetic import RandomAdapters
from server.engine.device_memory import Arena
from server.kernels import nf4
from server.kernels.lora import AdapterMemory, Part, SlotBatch
from server.kernels.tiles import DECODE_ROWS, make_tiles
from server.model.adapter import AdapterBlob
from server.model.config import ModelConfig
from server.model.parts import linear_parts

RANK = 16


class Tenants:
    """Adapters on the device, one in each slot."""

    def __init__(self, config: ModelConfig, count: int, device: torch.device) -> None:
        is_cuda = device.type == "cuda"
        adapters = RandomAdapters(config, RANK, torch.bfloat16, is_pinned=is_cuda)
        like = torch.empty(0, dtype=torch.bfloat16, device=device)
        arena = Arena(count * adapters.num_bytes, count, config, RANK, like)
        self.blobs: list[AdapterBlob] = []
        for slot in range(1, count + 1):
            placed = arena.place(slot, adapters(str(slot)))
            assert placed is not None, "adapters do not fit a memory of their size"
            self.blobs.append(placed.blob)
        synchronize(device)
        self.memory: AdapterMemory = arena.memory
        self.config = config

    def batch(self, count: int) -> SlotBatch:
        """One token of each of the first `count`."""
        slots, device = np.arange(1, count + 1), self.memory.weights.device
        tiles = torch.from_numpy(make_tiles(slots, DECODE_ROWS)).to(device)
        on_device = torch.from_numpy(slots.astype(np.int32)).to(device)
        return SlotBatch(on_device, tiles, DECODE_ROWS).located(self.memory)

    def pairs(self, count: int, layer: int, part: Part) -> tuple[Tensor, Tensor]:
        """A [count, rank, in] and B [count, out, rank] of one linear, side by side."""
        found = [
            (blob.a(pair), blob.b(pair).T)
            for blob in self.blobs[:count]
            for pair in blob.pairs
            if (pair.layer, pair.part) == (layer, part.index)
        ]
        return torch.stack([a for a, _ in found]), torch.stack([b for _, b in found])


@torch.inference_mode()
def measure_updates(
    linear: str, rows: int, width: int, tokens: list[int], bandwidth: float, tenants: Tenants
) -> list[KernelTime]:
    from server.kernels.nf4_tiled import TiledNf4Weight
    from server.kernels.slot_update import SlotUpdate

    dense = torch.randn(rows, width, dtype=torch.bfloat16, device="cuda") / width**0.5
    quantized = nf4.quantize(dense, double_quant=False)
    num_bytes = quantized.codes.nbytes * (1 + 2 / 32)
    layers = min(tenants.config.num_layers, copies_of(num_bytes))
    weights = [TiledNf4Weight.of(quantized) for _ in range(layers)]
    denses = [dense.clone() for _ in range(layers)]
    parts = linear_parts(tenants.config)[linear]
    times = []
    for count in tokens:
        x = torch.randn(count, width, dtype=torch.bfloat16, device="cuda")
        updates = [SlotUpdate(tenants.memory, tenants.batch(count), layer, parts) for layer in range(layers)]
        gathered = [[tenants.pairs(count, layer, part) for part in parts] for layer in range(layers)]
        adapted = sum(a.nbytes + b.nbytes for a, b in gathered[0])

        def ours(x: Tensor, i: int, updates: list[SlotUpdate] = updates) -> Tensor:
            return weights[i].linear(x, None, updates[i])

        def torchs(x: Tensor, i: int, gathered: list[list[tuple[Tensor, Tensor]]] = gathered) -> Tensor:
            return with_pairs(F.linear(x, denses[i]), x, gathered[i], parts)

        exact = F.linear(x.double(), quantized.dequantize(torch.float32).double())
        doubled = [(a.double(), b.double()) for a, b in gathered[0]]
        exact = with_pairs(exact, x.double(), doubled, parts)
        error = error_of(ours(x, 0), exact)
        for name, work, weight_bytes in (
            ("nf4, an adapter each", ours, num_bytes),
            ("bf16, cuBLAS + bmm", torchs, dense.nbytes),
        ):
            seconds = graph_seconds(partial(work, x), layers)
            floor = (weight_bytes + adapted + x.nbytes + count * rows * 2) / bandwidth
            # The peer multiplies by the weight before it was quantized.
            wrong = error if work is ours else 0.0
            times.append(KernelTime(linear, count, name, seconds * 1e6, floor * 1e6, wrong))
    return times


def with_pairs(y: Tensor, x: Tensor, pairs: list[tuple[Tensor, Tensor]], parts: tuple[Part, ...]) -> Tensor:
    """y [tokens, out] with each token's own pair of every part added, in place."""
    for (a, b), part in zip(pairs, parts, strict=True):
        y[:, part.column : part.column + part.width] += (b @ (a @ x.unsqueeze(2))).squeeze(2)
    return y
