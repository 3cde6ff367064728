"""Products with tiled weights on the tensor cores, with what adapters add, against float64."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from server.kernels.int8 import Int8Weight
from server.kernels.lora import AdapterMemory, Part, SlotBatch
from server.kernels.nf4 import BLOCK, Nf4Weight
from server.kernels.tiles import make_tiles

on_device = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MAX_RANK = 256
FORMATS = pytest.mark.parametrize("form", ["nf4", "int8"])


def random_weight(form: str, rows: int, width: int) -> Nf4Weight | Int8Weight:
    """On the device; some rows of int8 codes are zeros, and their scale too."""
    generator = torch.Generator("cuda").manual_seed(rows + width)
    bits = torch.randint(0, 256, (rows, width), generator=generator, dtype=torch.uint8, device="cuda")
    scales = torch.rand(rows, width // BLOCK, generator=generator, device="cuda") * 0.05 + 0.01
    if form == "nf4":
        return Nf4Weight(bits[:, : width // 2].contiguous(), scales)
    codes, absmax = bits.view(torch.int8), scales[:, 0].contiguous()
    codes[5::7], absmax[5::7] = 0, 0
    return Int8Weight(codes, absmax)


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory that nothing wrote yet holds NaN."""
    empty, new_empty = torch.empty, Tensor.new_empty

    def fill(made: Tensor) -> Tensor:
        return made.fill_(float("nan")) if made.is_floating_point() else made

    monkeypatch.setattr(torch, "empty", lambda *args, **options: fill(empty(*args, **options)))
    monkeypatch.setattr(Tensor, "new_empty", lambda *args, **options: fill(new_empty(*args, **options)))


def make_update(parts: tuple[Part, ...], width: int, slots: list[int], ranks: list[int]) -> Any:
    """Of adapters 1, 2, ... with these ranks, whose weights lie in memory full of NaN."""
    from server.kernels.slot_update import SlotUpdate

    generator = torch.Generator().manual_seed(len(slots))
    pieces, at = [torch.full((64,), float("nan"))], 64
    places = torch.zeros(len(ranks) + 1, 3, 7, 4, dtype=torch.int32)
    for slot, rank in enumerate(ranks, 1):
        for part in parts:
            padded = -(-rank // 8) * 8
            a = torch.randn(rank, width, generator=generator) / width**0.5
            b = torch.zeros(part.width, padded)
            b[:, :rank] = torch.randn(part.width, rank, generator=generator) / max(rank, 1) ** 0.5
            places[slot, 1, part.index] = torch.tensor((at // 8, (at + a.numel()) // 8, rank, 0))
            pieces += [a.flatten(), b.flatten(), torch.full((64,), float("nan"))]
            at += a.numel() + b.numel() + 64
    memory = AdapterMemory(torch.cat(pieces).bfloat16().cuda(), places.cuda(), MAX_RANK)
    tiles = torch.from_numpy(make_tiles(np.array(slots), 8))
    # Fixed shapes: a tile for each row, those that are not there empty.
    padded_tiles = torch.zeros(len(slots), 3, dtype=torch.int32)
    padded_tiles[: len(tiles)] = tiles
    batch = SlotBatch(torch.tensor(slots, dtype=torch.int32).cuda(), padded_tiles.cuda(), 8)
    return SlotUpdate(memory, batch.located(memory), 1, parts)


def exact(x: Tensor, weight: Tensor, update: Any = None) -> Tensor:
    y = x.double() @ weight.double().T
    if update is None:
        return y
    for token, slot in enumerate(update.batch.slots.tolist()):
        for part in update.parts if slot else ():
            a_at, b_at, rank, _ = update.memory.places[slot, 1, part.index].tolist()
            padded, width = -(-rank // 8) * 8, x.shape[1]
            a = update.memory.weights[a_at * 8 :][: rank * width].view(rank, width).double()
            b = update.memory.weights[b_at * 8 :][: part.width * padded].view(part.width, padded).double()
            y[token, part.column : part.column + part.width] += b[:, :rank] @ (a @ x[token].double())
    return y


def assert_close(y: Tensor, expected: Tensor) -> None:
    assert not y.isnan().any()
    error = float((y.double() - expected).abs().max() / expected.abs().max())
    assert error < 0.012, error


SHAPES = [(64, 64), (16, 192), (6144, 4096), (4096, 14336), (1552, 8960), (96, 1344)]
TOKENS = [1, 3, 8, 9, 16, 31, 32, 64, 65, 96, 100, 128, 129, 190, 192, 256, 300, 700]
FFNS, GATE_TOKENS = [96, 1408, 14336], [1, 8, 13, 32, 64, 100, 190, 250, 300]


@FORMATS
@pytest.mark.usefixtures("poison")
class TestOnDevice:
    pytestmark = on_device

    @pytest.mark.parametrize("tokens", TOKENS)
    @pytest.mark.parametrize("shape", SHAPES)
    def test_products_equal_the_formula(self, form: str, shape: tuple[int, int], tokens: int) -> None:
        from server.kernels.tiled import TiledWeight

        weight = random_weight(form, *shape)
        x = torch.randn(tokens, shape[1], device="cuda", dtype=torch.bfloat16)
        bias = torch.randn(shape[0], device="cuda", dtype=torch.bfloat16)
        tiled = TiledWeight.of(weight)
        y = tiled.linear(x, bias)
        assert_close(y, exact(x, weight.dequantize(torch.float32)) + bias.double())
        # Kernels follow each other closely: one that does not wait for its x is found out.
        for _ in range(5):
            assert torch.equal(y, tiled.linear(x + 0, bias)), "another run gives other bits"

    @pytest.mark.parametrize("pairs", [False, True])
    def test_copies_of_the_weight_are_the_twins(self, form: str, pairs: bool) -> None:
        from server.kernels.tiled import TiledWeight

        weight = random_weight(form, 192, 320)
        # Scales that float16 holds: nothing is rounded before the product is.
        weight = type(weight)(weight.codes, weight.absmax.half().float())
        copy = TiledWeight.of(weight, pairs).dequantize(torch.bfloat16)
        assert torch.equal(copy, weight.dequantize(torch.bfloat16))

    @pytest.mark.parametrize(
        ("slots", "ranks"),
        [
            ([1], [16]),
            ([0, 0, 1, 2, 2], [1, 256]),
            ([0] * 7, [8]),
            ([0, *range(1, 16)], [8, 16, 24, 64, 3] * 3),
            ([*range(1, 33)], [16] * 32),
            ([1] * 30, [40]),
            ([0] * 20 + [1] * 20 + list(range(2, 26)), [5, 8, 128, 16, 0] * 5),
            ([*range(1, 65)], [16] * 64),
        ],
    )
    @pytest.mark.parametrize("shape", ["qkv", "o", "gate_up", "narrow"])
    def test_adapters_are_added_to_their_own_tokens(
        self, form: str, slots: list[int], ranks: list[int], shape: str
    ) -> None:
        from server.kernels.tiled import TiledWeight

        parts, width = {
            "qkv": ((Part(0, 0, 512), Part(1, 512, 128), Part(2, 640, 128)), 1024),
            "o": ((Part(3, 0, 4096),), 4096),
            "gate_up": ((Part(4, 0, 2816), Part(5, 2816, 2816)), 1024),
            "narrow": ((Part(6, 0, 48),), 1408),
        }[shape]
        weight = random_weight(form, sum(part.width for part in parts), width)
        x = torch.randn(len(slots), width, device="cuda", dtype=torch.bfloat16)
        update = make_update(parts, width, slots, ranks)
        expected = exact(x, weight.dequantize(torch.float32), update)
        tiled = TiledWeight.of(weight, pairs=shape == "gate_up")
        y = tiled.linear(x, None, update)
        assert_close(y, expected)
        for _ in range(5):
            assert torch.equal(y, tiled.linear(x, None, update)), "another run gives other bits"
        if shape == "gate_up":
            gate, up = y.float().chunk(2, dim=1)
            assert_close(tiled.gated(x, None, update), (torch.nn.functional.silu(gate) * up).double())

    @pytest.mark.parametrize("tokens", GATE_TOKENS)
    @pytest.mark.parametrize("ffn", FFNS)
    def test_gates_equal_the_formula(self, form: str, tokens: int, ffn: int) -> None:
        from server.kernels.tiled import TiledWeight

        weight = random_weight(form, 2 * ffn, 1024)
        x = torch.randn(tokens, 1024, device="cuda", dtype=torch.bfloat16)
        bias = torch.randn(2 * ffn, device="cuda", dtype=torch.bfloat16)
        y = TiledWeight.of(weight, pairs=True).gated(x, bias)
        gate, up = (exact(x, weight.dequantize(torch.float32)) + bias.double()).chunk(2, dim=1)
        assert_close(y, torch.nn.functional.silu(gate) * up)

    def test_a_token_that_overflows_spoils_no_other(self, form: str) -> None:
        from server.kernels.tiled import TiledWeight

        weight = random_weight(form, 512, 1024)
        x = torch.randn(20, 1024, device="cuda", dtype=torch.bfloat16)
        update = make_update((Part(3, 0, 512),), 1024, [*range(1, 21)], [16] * 20)
        tiled = TiledWeight.of(weight)
        fine = tiled.linear(x, None, update)
        for poison in (float("nan"), float("inf"), 3e38):
            spoilt = x.clone()
            spoilt[7] = poison
            y = tiled.linear(spoilt, None, update)
            others = [token for token in range(20) if token != 7]
            assert torch.equal(y[others], fine[others])
            assert not y[7].isfinite().all()
