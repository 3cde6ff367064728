"""Which products go to the kernels, in which pieces, and which are left to torch; no device is asked."""

from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from server.kernels.device import Processors
from server.kernels.formats import INT8, NF4
from server.kernels.int8 import Int8Weight
from server.kernels.nf4 import Nf4Weight
from server.kernels.plans import Plan, fused_up_to

H100, A100 = Processors(132, 232448, has_wgmma=True), Processors(108, 166912, has_wgmma=False)


@dataclass
class Launches:
    """What would have been launched: (kernel, its tokens, tokens of x)."""

    seen: list[tuple[str, int, int]] = field(default_factory=list)

    def kernel(self, plan: Plan) -> "Launches":
        self.plan = plan
        return self

    def launch(self, grid: tuple[int, int, int], arguments: Any) -> None:
        assert grid == (self.plan.splits, self.plan.columns, 1)
        self.seen.append((self.plan.name, self.plan.tokens, arguments.tokens))


@pytest.fixture
def launches(tiled: Any, monkeypatch: pytest.MonkeyPatch) -> Launches:
    launches = Launches()
    monkeypatch.setattr(tiled, "linear_kernel", launches.kernel)
    monkeypatch.setattr(tiled, "processors", lambda: H100)
    return launches


def int8_weight(rows: int, width: int) -> Int8Weight:
    return Int8Weight(torch.zeros(rows, width, dtype=torch.int8), torch.ones(rows))


def nf4_weight(rows: int, width: int) -> Nf4Weight:
    return Nf4Weight(torch.zeros(rows, width // 2, dtype=torch.uint8), torch.ones(rows, width // 64))


@pytest.mark.parametrize("weight", [int8_weight(64, 128), nf4_weight(64, 128)], ids=["int8", "nf4"])
def test_one_launch_takes_what_it_can(
    tiled: Any, launches: Launches, weight: Int8Weight | Nf4Weight, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiled.TiledWeight.of(weight)
    assert made.format is (INT8 if isinstance(weight, Int8Weight) else NF4) and made.shape == (64, 128)
    for tokens in (3, 16, 40, 100, 256):
        made.linear(torch.zeros(tokens, 128, dtype=torch.bfloat16), None)
    assert launches.seen == [
        ("linear_mma", 8, 3),
        ("linear_mma", 16, 16),
        ("linear_wgmma", 40, 40),
        ("linear_wgmma", 128, 100),
        ("linear_wgmma", 256, 256),
    ]
    launches.seen.clear()
    monkeypatch.setattr(tiled, "processors", lambda: A100)
    made.linear(torch.zeros(40, 128, dtype=torch.bfloat16), None)
    assert launches.seen == [("linear_mma", 16, 16), ("linear_mma", 16, 16), ("linear_mma", 8, 8)]


def test_many_tokens_take_a_copy_of_the_weight(
    tiled: Any, launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = []

    def copy(self: Any, dtype: torch.dtype) -> Tensor:
        copies.append(dtype)
        return torch.ones(self.shape, dtype=dtype)

    monkeypatch.setattr(tiled.TiledWeight, "dequantize", copy)
    made = tiled.TiledWeight.of(int8_weight(64, 128))
    x = torch.ones(fused_up_to(INT8, H100) + 1, 128, dtype=torch.bfloat16)
    assert torch.equal(made.linear(x, None), torch.full((len(x), 64), 128, dtype=torch.bfloat16))
    assert (launches.seen, copies) == ([], [torch.bfloat16])


def test_what_another_kernel_adds_comes_after(tiled: Any, launches: Launches) -> None:
    """Chunks of prompts: their updates are no decodes'."""

    class Sum:
        def add(self, y: Tensor, x: Tensor) -> None:
            y.fill_(7)

    y = tiled.TiledWeight.of(int8_weight(64, 128)).linear(
        torch.zeros(70, 128, dtype=torch.bfloat16), None, Sum()
    )
    assert launches.seen == [("linear_wgmma", 96, 70)] and bool((y == 7).all())


def test_shapes_that_make_no_whole_tiles_stay_with_torch(tiled: Any) -> None:
    from server.model.acceleration import _fused
    from server.model.layers import Linear

    fits = tiled.TiledWeight.fits
    assert fits(int8_weight(16, 64)) and fits(int8_weight(32, 64), pairs=True) and fits(nf4_weight(48, 64))
    for weight in (int8_weight(24, 64), int8_weight(16, 96), nf4_weight(24, 64)):
        assert not fits(weight) and _fused(Linear(weight)).weight is weight
    assert not fits(int8_weight(48, 64), pairs=True)
