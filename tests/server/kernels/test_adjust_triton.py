"""The kernel that scales and shifts rows by slot, against its twin; interpreted where there is no device."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels.adjust import PartChange, RowChanges, adjust, scale_inputs
from server.kernels.lora import AdapterMemory, Part, Segment, SlotBatch

triton = pytest.importorskip("triton")

from server.kernels import adjust_triton  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LAYERS = 2
# Of q, k, v and o; wider than one program takes, and no multiples of anything.
WIDTHS = (1100, 40, 33, 24)
PARTS = (Part(0, 0, 1100), Part(1, 1100, 40), Part(2, 1140, 33))
LAST = Part(3, 0, 24)
QUICK = settings(max_examples=12, deadline=None)


def build(
    slots: int, seed: int, dtype: torch.dtype
) -> tuple[AdapterMemory, dict[tuple[int, int, int], list[torch.Tensor | None]]]:
    """Some of the vectors of every (slot, layer, part), NaN all around them."""
    generator = torch.Generator().manual_seed(seed)
    unit = 8 * dtype.itemsize
    extras = torch.full((slots + 1, LAYERS, 7, 4), -1, dtype=torch.int32)
    pieces, at = [torch.full((unit // 4 * 3,), torch.nan)], 3
    vectors: dict[tuple[int, int, int], list[torch.Tensor | None]] = {}
    for place in (
        (s, layer, part) for s in range(1, slots + 1) for layer in range(LAYERS) for part in range(4)
    ):
        vectors[place] = [None] * 3
        for kind in range(3):
            if torch.rand(1, generator=generator) < 0.6:
                vector = 1 + torch.randn(WIDTHS[place[2]], generator=generator)
                padding = torch.full((-vector.numel() % (unit // 4) + unit // 4,), torch.nan)
                pieces += [vector, padding]
                extras[(*place, kind)] = at
                vectors[place][kind] = vector.to(DEVICE)
                at += (vector.numel() + padding.numel()) * 4 // unit
    weights = torch.cat(pieces).to(DEVICE).view(dtype)
    return AdapterMemory(weights, torch.zeros_like(extras).to(DEVICE), 8, extras.to(DEVICE)), vectors


def members_of(
    slots: list[int], vectors: dict[tuple[int, int, int], list[torch.Tensor | None]], parts: tuple[Part, ...]
) -> list[RowChanges]:
    return [
        RowChanges(
            Segment(row, row + 1, 0), tuple(PartChange(part, *vectors[slot, 1, part.index]) for part in parts)
        )
        for row, slot in enumerate(slots)
        if slot
    ]


def batch_of(slots: list[int]) -> SlotBatch:
    return SlotBatch(
        torch.tensor(slots, dtype=torch.int32, device=DEVICE), torch.empty(0, 3, dtype=torch.int32), 8
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@QUICK
@given(slots=st.lists(st.integers(0, 4), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_rows_are_changed_as_the_twin_changes_them(dtype: torch.dtype, slots: list[int], seed: int) -> None:
    memory, vectors = build(4, seed, dtype)
    slots = sorted(slots)
    y = torch.randn(len(slots), sum(WIDTHS[:3]), generator=torch.Generator().manual_seed(seed))
    y = y.to(DEVICE, dtype)
    expected = y.clone()
    adjust(expected, members_of(slots, vectors, PARTS))
    adjust_triton.adjust(y, memory, batch_of(slots), 1, PARTS)
    # A multiplication and an addition may be one, with one rounding less.
    torch.testing.assert_close(y, expected, rtol=2**-7 if dtype == torch.bfloat16 else 1e-6, atol=1e-6)
    base = [row for row, slot in enumerate(slots) if slot == 0]
    assert torch.equal(y[base], expected[base])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_inputs_are_scaled_and_nothing_is_added(dtype: torch.dtype) -> None:
    memory, vectors = build(4, 5, dtype)
    slots = [0, 1, 1, 2, 3, 4]
    x = torch.randn(len(slots), WIDTHS[3], generator=torch.Generator().manual_seed(2)).to(DEVICE, dtype)
    expected = x.clone()
    scale_inputs(expected, members_of(slots, vectors, (LAST,)))
    adjust_triton.scale_input(x, memory, batch_of(slots), 1, LAST)
    # The interpreter cuts bfloat16 off where a device rounds it.
    torch.testing.assert_close(x, expected, rtol=2**-7 if dtype == torch.bfloat16 else 0, atol=0)
    assert any(vectors[slot, 1, 3][2] is not None for slot in (1, 2, 3, 4))


def test_rows_without_vectors_keep_their_bits_even_if_they_are_nan() -> None:
    memory, _ = build(1, 1, torch.float32)
    y = torch.full((3, sum(WIDTHS[:3])), torch.nan, device=DEVICE)
    y[1] = 2.0
    adjust_triton.adjust(y, memory, batch_of([0, 0, 0]), 0, PARTS)
    assert y[0].isnan().all() and (y[1] == 2.0).all() and y[2].isnan().all()
