"""What storing leaves of a change, over the ratios at which it matters."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from adapters.merge.encodings import Survival, encoder, mean_recovered, mean_unchanged, survival
from adapters.merge.recipes import rounded


@pytest.fixture(scope="module")
def grid() -> Tensor:
    """A weight as QLoRA trains on it: on the grid of NF4 already."""
    return rounded(torch.randn(256, 256, generator=torch.Generator().manual_seed(0)) * 0.02, "nf4")


def change_of(weight: Tensor, ratio: float) -> Tensor:
    """Of rank 8, and of `ratio` of the weight's size."""
    generator = torch.Generator().manual_seed(1)
    delta = torch.randn(256, 8, generator=generator) @ torch.randn(8, 256, generator=generator)
    return delta * ratio * weight.norm() / delta.norm()


def stored(target: str, weight: Tensor, ratio: float) -> Survival:
    merged, encode = weight + change_of(weight, ratio), encoder(target)
    found = survival("q", weight, merged, encode("q.weight", merged), encode)
    assert found is not None
    assert found.size == pytest.approx(ratio, rel=1e-3)
    return found


def test_nf4_swallows_a_small_change_whole(grid: Tensor) -> None:
    """The grid's steps are wider than a trained update; nearest rounding returns the code it came from."""
    small, middle, large = (stored("nf4", grid, ratio) for ratio in (0.01, 0.1, 0.4))
    assert small.unchanged is not None and small.unchanged > 0.999
    assert abs(small.recovered) < 0.15
    assert small.residual > 0.9
    assert middle.unchanged is not None and large.unchanged is not None
    assert 0.6 < middle.unchanged < 0.95 and large.unchanged < 0.5
    assert middle.recovered < large.recovered < 1.1
    assert large.recovered > 0.9


@pytest.mark.parametrize(("target", "residual"), [("fp32", 1e-4), ("fp16", 0.05), ("bf16", 0.2)])
def test_dense_formats_keep_it(target: str, residual: float, grid: Tensor) -> None:
    found = stored(target, grid, 0.01)
    assert found.unchanged is None
    assert found.recovered == pytest.approx(1, abs=2e-3)
    assert found.residual < residual


def test_int8_keeps_the_signal_under_noise(grid: Tensor) -> None:
    found = stored("int8", grid, 0.02)
    assert found.recovered == pytest.approx(1, abs=0.05)
    assert found.unchanged is not None and found.unchanged < 0.95


def test_no_change_is_no_survival(grid: Tensor) -> None:
    encode = encoder("nf4")
    assert survival("q", grid, grid.clone(), encode("q.weight", grid), encode) is None


def test_means_are_over_changed_linears(grid: Tensor) -> None:
    found = stored("nf4", grid, 0.1)
    other = replace(found, recovered=0.0, unchanged=1.0)
    assert mean_recovered([found, other]) == pytest.approx(found.recovered / 2)
    assert found.unchanged is not None
    assert mean_unchanged([found, other]) == pytest.approx((found.unchanged + 1) / 2)
    assert mean_unchanged([stored("bf16", grid, 0.1)]) is None
    assert mean_recovered([]) == 1
