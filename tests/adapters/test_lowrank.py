"""Sums of pairs are exact, compression is the best there is, and its error is what it says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.aggregate import aggregate
from adapters.lowrank import dense_spectrum, fit, fit_dense, numerical_rank, spectrum
from adapters.normal import LowRank


def pair(rank: int, out: int = 12, width: int = 9, seed: int = 0, decay: float = 1.0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    scale = decay ** torch.arange(rank)
    a = torch.randn(rank, width, generator=generator) * scale[:, None]
    return LowRank(a, torch.randn(out, rank, generator=generator))


def delta(low_rank: LowRank) -> torch.Tensor:
    return low_rank.b.double() @ low_rank.a.double()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@settings(max_examples=30, deadline=None)
@given(
    ranks=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    weights=st.lists(st.floats(-2, 2, width=16), min_size=4, max_size=4),
)
def test_a_weighted_sum_is_exact(ranks: list[int], weights: list[float]) -> None:
    adapters = [{"q": pair(rank, seed=i)} for i, rank in enumerate(ranks)]
    found = aggregate(adapters, weights[: len(ranks)])
    expected = sum(weight * delta(adapter["q"]) for weight, adapter in zip(weights, adapters, strict=False))
    assert found.error == 0
    assert found.pairs["q"].rank == sum(ranks)
    torch.testing.assert_close(delta(found.pairs["q"]), expected, rtol=0, atol=1e-5)


def test_an_average_of_factors_is_not_the_average() -> None:
    one, two = pair(3, seed=1), pair(3, seed=2)
    mean = (delta(one) + delta(two)) / 2
    factors = delta(LowRank((one.a + two.a) / 2, (one.b + two.b) / 2))
    found = aggregate([{"q": one}, {"q": two}], [0.5, 0.5])
    assert relative(delta(found.pairs["q"]), mean) < 1e-6 < 0.3 < relative(factors, mean)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_compression_to_a_rank_is_the_best_one_and_says_its_error(rank: int) -> None:
    adapters = [{"q": pair(4, seed=i, decay=0.5)} for i in range(2)]
    whole = delta(aggregate(adapters, [1.0, -0.5]).pairs["q"])
    found = aggregate(adapters, [1.0, -0.5], rank=rank)
    singular = torch.linalg.svdvals(whole)
    best = float(singular[rank:].norm() / singular.norm())
    assert found.pairs["q"].rank == rank
    assert found.errors["q"] == pytest.approx(best, abs=1e-6)
    assert relative(delta(found.pairs["q"]), whole) == pytest.approx(best, abs=1e-6)


@pytest.mark.parametrize("energy", [0.5, 0.9, 0.999, 1.0])
def test_compression_by_energy_keeps_that_share_and_no_rank_more(energy: float) -> None:
    adapters = [{"q": pair(4, seed=i, decay=0.6)} for i in range(2)]
    whole = delta(aggregate(adapters, [1.0, 1.0]).pairs["q"])
    shares = torch.linalg.svdvals(whole).square()
    shares = (shares / shares.sum()).cumsum(0)
    found = aggregate(adapters, [1.0, 1.0], energy=energy)
    kept = found.pairs["q"].rank
    assert shares[kept - 1] >= energy - 1e-9
    assert kept == 1 or shares[kept - 2] < energy
    assert found.error**2 == pytest.approx(1 - float(shares[kept - 1]), abs=1e-6)


def test_equal_directions_are_found_to_be_one() -> None:
    one = pair(2)
    found = aggregate([{"q": one}, {"q": one}], [1.0, 2.0], energy=1.0)
    assert found.pairs["q"].rank == 2
    torch.testing.assert_close(delta(found.pairs["q"]), 3 * delta(one), rtol=0, atol=1e-5)


def test_opposite_adapters_cancel() -> None:
    one = pair(2)
    found = aggregate([{"q": one}, {"q": one}], [1.0, -1.0], rank=4)
    assert float(delta(found.pairs["q"]).abs().max()) < 1e-6


def test_linears_that_one_adapter_leaves_alone() -> None:
    found = aggregate([{"q": pair(1)}, {"q": pair(1, seed=1), "v": pair(2, seed=2)}], [2.0, 3.0])
    assert {name: low_rank.rank for name, low_rank in found.pairs.items()} == {"q": 2, "v": 2}
    torch.testing.assert_close(delta(found.pairs["v"]), 3 * delta(pair(2, seed=2)), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("weights", "options", "told"),
    [
        ([1.0], {}, "one weight"),
        ([1.0, float("nan")], {}, "finite"),
        ([1.0, 1.0], {"rank": 0}, "at least 1"),
        ([1.0, 1.0], {"energy": 1.5}, "energy"),
    ],
)
def test_what_makes_no_sum(weights: list[float], options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        aggregate([{"q": pair(1)}, {"q": pair(1, seed=1)}], weights, **options)
    with pytest.raises(ValueError, match="shapes"):
        aggregate([{"q": pair(1)}, {"q": pair(1, out=5)}], [1.0, 1.0])


def test_a_pair_that_is_served_is_left_as_it_is() -> None:
    low_rank = pair(4)
    assert fit(low_rank, 4) == (low_rank, 0.0)


@pytest.mark.parametrize("rank", [8, 20])
def test_a_pair_of_too_high_a_rank_is_cut_with_its_error(rank: int) -> None:
    """By its factors, and as a whole where those are no smaller."""
    low_rank = pair(rank, decay=0.1)
    found, error = fit(low_rank, 4)
    assert found.rank == 4
    assert 1e-6 < error < 1e-3
    assert relative(delta(found), delta(low_rank)) == pytest.approx(error, rel=0.05)


def test_a_large_matrix_is_searched_for_its_range_and_always_the_same_way() -> None:
    low_rank = pair(6, out=200, width=150, decay=0.5)
    whole = low_rank.b @ low_rank.a
    found, error = fit_dense(whole, 8)
    assert error < 1e-6
    assert found.rank == 6
    again, _ = fit_dense(whole, 8)
    assert torch.equal(found.a, again.a)
    assert torch.equal(found.b, again.b)
    singular = torch.linalg.svdvals(whole.double())
    torch.testing.assert_close(dense_spectrum(whole, 8)[1][:6], singular[:6], rtol=1e-4, atol=1e-6)


def test_nothing_is_a_pair_of_rank_one() -> None:
    found, error = fit_dense(torch.zeros(5, 4), 3)
    assert (found.rank, error) == (1, 0.0)
    assert numerical_rank(spectrum(LowRank(torch.zeros(2, 4), torch.zeros(5, 2)))[1], 9) == 1
