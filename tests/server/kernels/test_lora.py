import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from server.kernels.lora import MASKED_UP_TO, LoraPack, Segment, lora_add, row_mask


def naive(y: torch.Tensor, x: torch.Tensor, pack: LoraPack, segments: list[Segment]) -> torch.Tensor:
    out = y.clone()
    for s in segments:
        rows = slice(pack.bounds[s.index], pack.bounds[s.index + 1])
        for token in range(s.start, s.end):
            out[token] += (pack.b[rows].T @ (pack.a[rows] @ x[token])).to(out.dtype)
    return out


@settings(deadline=None, max_examples=60)
@given(
    ranks=st.lists(st.integers(0, 9), min_size=1, max_size=5),
    lengths=st.lists(st.integers(1, 40), min_size=5, max_size=5),
    base_tokens=st.integers(0, 20),
    seed=st.integers(0, 1000),
)
def test_both_orders_of_work_equal_the_formula(
    ranks: list[int], lengths: list[int], base_tokens: int, seed: int
) -> None:
    """Empty segments, adapters without this linear, base rows, and either side of the crossover."""
    generator = torch.Generator().manual_seed(seed)
    bounds, segments, at = [0], [], base_tokens
    for index, rank in enumerate(ranks):
        bounds.append(bounds[-1] + rank)
        segments.append(Segment(at, at + lengths[index], index))
        at += lengths[index]
    a, b = (torch.randn(bounds[-1], width, generator=generator, dtype=torch.float64) for width in (7, 11))
    pack = LoraPack(a, b, tuple(bounds))
    x, y = (torch.randn(at, width, generator=generator, dtype=torch.float64) for width in (7, 11))
    expected = naive(y, x, pack, segments)
    one_by_one, masked = y.clone(), y.clone()
    lora_add(one_by_one, x, pack, segments, None)
    lora_add(masked, x, pack, segments, row_mask(at, pack.bounds, segments, x.device))
    torch.testing.assert_close(one_by_one, expected)
    torch.testing.assert_close(masked, expected)
    assert torch.equal(masked[:base_tokens], y[:base_tokens])


@pytest.mark.parametrize(
    ("tokens", "ends", "is_masked"),
    [(8, (4, 8), True), (8, (8,), False), (MASKED_UP_TO + 2, (4, MASKED_UP_TO + 2), False)],
)
def test_masks_are_made_only_where_they_pay(tokens: int, ends: tuple[int, ...], is_masked: bool) -> None:
    starts = (0, *ends)
    segments = [Segment(start, end, i) for i, (start, end) in enumerate(zip(starts, ends, strict=False))]
    bounds = tuple(range(len(ends) + 1))
    assert (row_mask(tokens, bounds, segments, torch.device("cpu")) is not None) == is_masked
