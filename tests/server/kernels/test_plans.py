"""Plans cover a weight once, fit the device, and leave no block waiting for one that cannot run."""

import pytest

from server.kernels.device import Processors
from server.kernels.formats import INT8, NF4, Format
from server.kernels.plans import X_RINGS, fused_up_to, most_tokens, most_updates, plan_of

H100 = Processors(132, 232448, has_wgmma=True)
A100 = Processors(108, 166912, has_wgmma=False)
A10 = Processors(72, 101376, has_wgmma=False)
SHAPES = [
    (6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (57344, 8192), (8192, 28672), (1552, 8960),
    (16, 64), (32, 192), (96, 1344), (1152, 896), (9728, 896),
]  # fmt: skip
FORMATS = pytest.mark.parametrize("form", [NF4, INT8], ids=lambda form: form.name)


@FORMATS
@pytest.mark.parametrize("on", [H100, A100, A10], ids=["h100", "a100", "a10"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_plans_cover_the_weight_and_fit_the_device(
    form: Format, on: Processors, shape: tuple[int, int]
) -> None:
    rows, width = shape
    for tokens in (*range(1, most_tokens(on) + 1, 5), most_tokens(on)):
        for pairs in (False, True) if rows % 32 == 0 else (False,):
            plan = plan_of(form, tokens, rows, width, pairs, on)
            assert plan.tokens >= tokens and plan.tokens % 8 == 0
            assert plan.columns * plan.tiles * 16 >= rows > (plan.columns - 1) * 16
            assert plan.shared_bytes <= on.shared_bytes or plan.warps <= 6
            # Blocks that share K wait for each other.
            assert plan.splits == 1 or plan.columns * plan.splits <= on.count
            if plan.name == "linear_wgmma":
                assert plan.warps % 4 == 0 and plan.warps * 16 == plan.tiles * 16
                # A thread's sums and two sets of fragments fit its registers.
                assert plan.tokens // 2 + 32 < 65536 // (plan.warps * 32)


def test_a_stage_of_x_is_free_when_the_next_comes() -> None:
    """Two are taken: the one that is read, and the one that the last product may still read."""
    assert all(ring.stages >= 3 and 4 % ring.blocks == 0 for ring in X_RINGS.values())


def test_nf4_decodes_as_measured() -> None:
    """The plans that the sweeps on an H200 found, for 8, 16, 32 and 64 tokens: warps, splits, columns."""
    shapes = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
    found = {
        name: [
            (plan.warps, plan.splits, plan.columns)
            for plan in (plan_of(NF4, tokens, *shape, False, H100) for tokens in (8, 16, 32, 64))
        ]
        for name, shape in shapes.items()
    }
    assert found == {
        "qkv": [(16, 1, 132), (8, 2, 66), (12, 4, 32), (12, 4, 32)],
        "o": [(16, 1, 132), (8, 2, 66), (16, 8, 16), (8, 4, 32)],
        "gate_up": [(16, 1, 132), (8, 1, 132), (16, 1, 112), (16, 1, 112)],
        "down": [(14, 4, 33), (8, 7, 18), (16, 8, 16), (8, 4, 32)],
    }


def test_updates_go_with_decodes_and_copies_with_chunks() -> None:
    assert (most_tokens(H100), most_updates(H100)) == (256, 64)
    assert (most_tokens(A100), most_updates(A100)) == (16, 16)
    assert fused_up_to(INT8, A100) < fused_up_to(NF4, A100) < fused_up_to(NF4, H100)
