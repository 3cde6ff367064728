"""The many-row LoRA kernels against the formula in float64; under Triton's interpreter without a device."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels.lora import AdapterMemory, Part, SlotBatch
from server.kernels.tiles import make_tiles

NAN = float("nan")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class House:
    """Adapters of the given ranks, NaN everywhere in memory but in their pairs."""

    memory: AdapterMemory
    # [slot][layer][part] -> (a [rank, in], b [out, rank])
    pairs: dict[tuple[int, int, int], tuple[torch.Tensor, torch.Tensor]]


def build(ranks: list[list[int]], width_in: int, widths: dict[int, int], dtype: torch.dtype) -> House:
    """ranks[slot - 1][i]: of the i-th of `widths`, {part: out}, in each of two layers."""
    generator = torch.Generator().manual_seed(7)
    layers = 2
    pieces, pairs = [torch.full((24,), NAN)], {}
    at = 24
    places = torch.zeros(len(ranks) + 1, layers, 7, 4, dtype=torch.int32)
    for slot, of_slot in enumerate(ranks, start=1):
        for layer in range(layers):
            for (part, width), rank in zip(widths.items(), of_slot, strict=True):
                if rank == 0:
                    continue
                a = (torch.randn(rank, width_in, generator=generator) / width_in**0.5).to(dtype)
                b = (torch.randn(width, rank, generator=generator) / rank**0.5).to(dtype)
                padded = torch.zeros(width, -(-rank // 8) * 8)
                padded[:, :rank] = b
                gap = -(rank * width_in) % 8 + 8
                b_at = at + rank * width_in + gap
                pieces += [a.flatten(), torch.full((gap,), NAN), padded.flatten(), torch.full((16,), NAN)]
                places[slot, layer, part] = torch.tensor([at // 8, b_at // 8, rank, 0])
                at = b_at + padded.numel() + 16
                pairs[slot, layer, part] = (a.double(), b.double())
    weights = torch.cat([piece.float() for piece in pieces]).to(dtype)
    highest = max(max(of_slot) for of_slot in ranks)
    return House(AdapterMemory(weights.to(DEVICE), places.to(DEVICE), highest), pairs)


def batch_of(slots: list[int], tile_rows: int, padding: int = 0) -> SlotBatch:
    tiles = np.concatenate((make_tiles(np.array(slots), tile_rows), np.zeros((padding, 3), np.int32)))
    return SlotBatch(
        torch.tensor(slots, dtype=torch.int32, device=DEVICE), torch.from_numpy(tiles).to(DEVICE), tile_rows
    )


def formula(
    y: torch.Tensor,
    x: torch.Tensor,
    house: House,
    slots: list[int],
    layer: int,
    parts: tuple[Part, ...],
) -> torch.Tensor:
    """float64, t rounded to x's dtype as every path does."""
    out, chosen = y.double(), torch.tensor(slots, device=y.device)
    for part in parts:
        columns = slice(part.column, part.column + part.width)
        for slot in sorted(set(slots)):
            if (slot, layer, part.index) in house.pairs:
                a, b = (m.to(y.device) for m in house.pairs[slot, layer, part.index])
                rows = chosen == slot
                t = (x[rows].double() @ a.T).to(x.dtype).double()
                out[rows, columns] += t @ b.T
    return out


@pytest.fixture(autouse=True)
def scalars_are_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton 3.6's interpreter holds scalars as arrays of one element, which NumPy 2.4 turns into no int."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def patch_tensor(tensor: object, scope: interpreter._LangPatchScope) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: self.handle.data.item())

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_tensor)


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch.empty gives holds NaN."""
    from server.kernels import lora_triton

    class Poisoned:
        float32 = torch.float32

        @staticmethod
        def empty(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
            return torch.full(shape, NAN, dtype=dtype, device=DEVICE)

    monkeypatch.setattr(lora_triton, "torch", Poisoned)


CASES = {
    "one part, odd ranks": ((3,), (160,), [[1], [3], [8], [16]]),
    "qkv, some parts left alone": (
        (0, 1, 2),
        (96, 48, 48),
        [[8, 0, 24], [0, 0, 0], [0, 64, 3], [16, 16, 16]],
    ),
    "gate and up, several blocks of ranks": ((4, 5), (144, 136), [[24, 65], [200, 0], [1, 256]]),
}
SLOTS = {
    64: [0] * 5 + [1] * 70 + [2] * 3 + [3] * 64 + [4] * 1,
    8: [0, 1, 1, 2] + [3] * 9 + [4],
}


@pytest.mark.parametrize("tile_rows", [64, 8])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("width_in", "dtype"), [(64, torch.float32), (192, torch.float16), (1200, torch.float32)]
)
def test_updates_equal_the_formula_and_other_rows_keep_every_bit(
    monkeypatch: pytest.MonkeyPatch, case: str, tile_rows: int, width_in: int, dtype: torch.dtype
) -> None:
    from server.kernels import lora_triton

    poison(monkeypatch)
    indices, widths, ranks = CASES[case]
    house = build(ranks, width_in, dict(zip(indices, widths, strict=True)), dtype)
    slots = [s for s in SLOTS[tile_rows] if s <= len(ranks)]
    columns = np.cumsum([0, *widths]).tolist()
    parts = tuple(map(Part, indices, columns, widths))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(len(slots), width_in, generator=generator).to(DEVICE, dtype)
    # Wider than its parts, and a view: neither gaps nor columns beyond may be written.
    whole = torch.randn(len(slots), columns[-1] + 16, generator=generator).to(DEVICE, dtype)
    before, y = whole.clone(), whole[:, :-8]
    lora_triton.lora_add(y, x, house.memory, batch_of(slots, tile_rows, padding=3), 1, parts)
    expected = formula(before[:, :-8], x, house, slots, 1, parts)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    torch.testing.assert_close(y.double(), expected, rtol=tolerance, atol=tolerance)
    touched = torch.zeros_like(before, dtype=torch.bool)
    for part in parts:
        for row, slot in enumerate(slots):
            touched[row, part.column : part.column + part.width] = (slot, 1, part.index) in house.pairs
    assert torch.equal(whole[~touched], before[~touched])
    assert not torch.equal(whole[touched], before[touched])


def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(shape[-1])).to(DEVICE, dtype)


@pytest.mark.parametrize("many_tiles", [1, 9])
@pytest.mark.parametrize("many_programs", [1, 528])
def test_every_way_to_cut_the_work_gives_the_formula(
    monkeypatch: pytest.MonkeyPatch, many_tiles: int, many_programs: int
) -> None:
    """Many tiles: fewer splits of x; many programs: more columns of y for each, the last ones short."""
    from server.kernels import lora_triton

    poison(monkeypatch)
    monkeypatch.setattr(lora_triton, "MANY_TILES", many_tiles)
    monkeypatch.setattr(lora_triton, "MANY_PROGRAMS", many_programs)
    slots, parts = [0] + [1] * 190 + [2] * 16 + [3] * 17, (Part(4, 0, 1100), Part(5, 1100, 600))
    house = build([[5, 0], [8, 24], [16, 1]], 1100, {4: 1100, 5: 600}, torch.float32)
    x, y = draw(len(slots), 1100), draw(len(slots), 1700)
    expected = formula(y, x, house, slots, 0, parts)
    lora_triton.lora_add(y, x, house.memory, batch_of(slots, 64), 0, parts)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)


def test_splits_cover_every_column_and_no_more_than_pay() -> None:
    from server.kernels.lora_triton import MANY_TILES, _split

    assert _split(MANY_TILES, 4096, True) == (2, 2048)
    assert _split(MANY_TILES - 1, 4096, True) == (4, 1024)
    assert _split(2, 14336, False) == (8, 1792)
    assert _split(2, 1100, False) == (4, 512)
    assert _split(300, 64, True) == (1, 256)


def test_a_step_of_base_tokens_alone_changes_nothing() -> None:
    from server.kernels import lora_triton

    y = draw(3, 40)
    before = y.clone()
    house = build([[8]], 64, {3: 40}, torch.float32)
    lora_triton.lora_add(y, draw(3, 64), house.memory, batch_of([0, 0, 0], 64), 0, (Part(3, 0, 40),))
    assert torch.equal(y, before)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_an_adapter_that_overflows_does_not_reach_its_neighbours() -> None:
    from server.kernels import lora_triton

    house = build([[4], [4]], 64, {3: 48}, torch.float32)
    slots, parts, rest = [1, 1, 2, 2], (Part(3, 0, 48),), [0, 2, 3]
    x, y = draw(4, 64), draw(4, 48)
    x[1] = torch.inf
    expected = formula(y, x, house, slots, 0, parts)
    lora_triton.lora_add(y, x, house.memory, batch_of(slots, 64), 0, parts)
    assert not y[1].isfinite().any()
    torch.testing.assert_close(y[rest].double(), expected[rest], rtol=1e-5, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnDevice:
    QKV = (Part(0, 0, 4096), Part(1, 4096, 1024), Part(2, 5120, 1024))
    GATE_UP = (Part(4, 0, 14336), Part(5, 14336, 14336))
    DOWN = (Part(6, 0, 4096),)
    # Long and short tiles, few of them and many, the base among them; and a decode step.
    STEPS = (
        ([0] * 7 + [1] * 300 + [2] * 5 + [3] * 64 + [4] * 1, 64),
        ([0] * 100 + [1] * 4000 + [2] * 17 + [3] * 3000 + [4] * 16, 64),
        ([0, 1, 1, 2, 3, 3, 3, 4], 8),
    )

    @pytest.mark.parametrize("step", range(3))
    @pytest.mark.parametrize(("parts", "width_in"), [(QKV, 4096), (GATE_UP, 4096), (DOWN, 14336)])
    def test_real_shapes_equal_the_formula_and_repeat(
        self, step: int, parts: tuple[Part, ...], width_in: int
    ) -> None:
        from server.kernels import lora_triton

        slots, tile_rows = self.STEPS[step]
        ranks = [
            [16] * len(parts),
            [64, 0, 8][: len(parts)],
            [256, 24, 1][: len(parts)],
            [0, 3, 3][: len(parts)],
        ]
        house = build(ranks, width_in, {p.index: p.width for p in parts}, torch.bfloat16)
        x = draw(len(slots), width_in, dtype=torch.bfloat16)
        before = draw(len(slots), sum(p.width for p in parts), dtype=torch.bfloat16)
        results = []
        # Each follows the last closely: a kernel that does not wait for what it reads is found out.
        for _ in range(5):
            y = before + 0
            lora_triton.lora_add(y, x + 0, house.memory, batch_of(slots, tile_rows, 3), 1, parts)
            results.append(y)
        expected = formula(before, x, house, slots, 1, parts)
        torch.testing.assert_close(results[0].double(), expected, rtol=1e-2, atol=2e-2)
        assert all(torch.equal(results[0], again) for again in results[1:])

    def test_adapters_stand_beyond_the_reach_of_32_bits(self) -> None:
        from server.kernels import lora_triton

        house = build([[16], [9]], 256, {3: 512}, torch.bfloat16)
        near, far = house.memory, 2**31
        weights = torch.empty(far + near.weights.numel(), dtype=torch.bfloat16, device="cuda")
        weights[far:] = near.weights
        offset = torch.tensor([far // 8, far // 8, 0, 0], dtype=torch.int32, device="cuda")
        memory = AdapterMemory(weights, near.places + offset, near.max_rank)
        x, y = draw(80, 256, dtype=torch.bfloat16), draw(80, 512, dtype=torch.bfloat16)
        slots, parts = [1] * 70 + [2] * 10, (Part(3, 0, 512),)
        expected = y.clone()
        lora_triton.lora_add(expected, x, near, batch_of(slots, 64), 0, parts)
        lora_triton.lora_add(y, x, memory, batch_of(slots, 64), 0, parts)
        assert torch.equal(y, expected)


@settings(deadline=None, max_examples=100)
@given(
    runs=st.lists(st.integers(0, 150), max_size=6),
    tile_rows=st.sampled_from([1, 8, 64]),
    skip=st.integers(1, 3),
)
def test_tiles_cover_exactly_the_adapters_rows_in_order(runs: list[int], tile_rows: int, skip: int) -> None:
    slots = np.repeat(np.arange(len(runs)) * skip, runs).astype(np.int32)
    tiles = make_tiles(slots, tile_rows)
    assert tiles.dtype == np.int32 and tiles.shape == (len(tiles), 3)
    rows = [range(first, first + count) for _, first, count in tiles.tolist()]
    assert [row for of_tile in rows for row in of_tile] == np.flatnonzero(slots).tolist()
    assert all(0 < len(of_tile) <= tile_rows for of_tile in rows)
    for (slot, _, _), of_tile in zip(tiles.tolist(), rows, strict=True):
        assert {int(slots[row]) for row in of_tile} == {slot}
    # No more tiles than needed.
    assert len(tiles) == sum(-(-n // tile_rows) for n in runs[1:])
