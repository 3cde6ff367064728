"""From runs to the figures that claims are judged by."""

from dataclasses import replace

import pytest

from loadtests.claims.costs import Flops
from loadtests.claims.figures import FLOPS_RANK, figures_of, of_flops, of_rates, of_routes, of_speeds
from loadtests.claims.learn import Trial
from loadtests.claims.measured import Measured, Speeds
from loadtests.claims.sweeps import best_of, deviations, in_errors, mean_losses
from loadtests.concurrent import Speed
from loadtests.concurrent_config import PEFT
from loadtests.figures import LoadTestError
from loadtests.merge_routes import Route
from loadtests.turns import Times

RATES = (1e-3, 1e-2, 1e-1)


def trials(subject: str, rank: int, best: float, low: float, batch: int = 8) -> list[Trial]:
    """Two seeds at every rate, `low` at the best one and worse elsewhere."""
    losses = {rate: low if rate == best else low + 1 for rate in RATES}
    return [
        Trial(subject, rank, rate, batch, seed, losses[rate] + 0.01 * seed)
        for rate in RATES
        for seed in (0, 1)
    ]


def test_a_subject_is_judged_at_its_own_best_rate() -> None:
    full, low = best_of(trials("full", 0, 1e-3, 1.0) + trials("rank 1", 1, 1e-2, 1.5))
    assert (full.rate, low.rate) == (1e-3, 1e-2)
    assert low.losses == pytest.approx((1.5, 1.51))
    assert low.loss - full.loss == pytest.approx(0.5)


def test_a_diverged_run_never_is_the_best_and_is_no_number_in_the_picture() -> None:
    found = trials("rank 1", 1, 1e-2, 1.5)
    spoilt = [replace(each, loss=None) if each.rate == 1e-2 and each.seed else each for each in found]
    assert best_of(spoilt)[0].rate != 1e-2
    assert mean_losses(spoilt)["rank 1"][1e-2] == float("inf")
    with pytest.raises(LoadTestError, match="lower"):
        best_of([replace(each, loss=None) for each in found])


def test_seeds_are_paired() -> None:
    worse, better = best_of(trials("a", 1, 1e-2, 2.0) + trials("b", 2, 1e-2, 1.0))
    assert deviations(worse, better) > 1e6, "the difference is the same for both seeds"
    assert in_errors([1.0, 3.0]) == pytest.approx(2.0)
    assert in_errors([-1.0, -3.0]) == pytest.approx(-2.0)


def test_rates_are_compared_where_the_best_lies_between_those_tried() -> None:
    full = trials("full", 0, 1e-2, 1.0)
    assert of_rates(trials("rank 4", 4, 1e-2, 1.2) + full) == {"rate_spread": 1.0, "rate_ratio": 1.0}
    assert of_rates(trials("rank 4", 4, 1e-1, 1.2) + full) == {}


def test_a_gap_that_grows_with_the_batch() -> None:
    small = trials("full", 0, 1e-2, 1.0, 8) + trials("rank 2", 2, 1e-2, 1.1, 8)
    large = trials("full", 0, 1e-2, 1.2, 64) + trials("rank 2", 2, 1e-2, 1.6, 64)
    assert figures_of(Measured(batches=small + large))["batch_penalty"] > 2


def test_operations_are_held_against_full_fine_tuning_done_alike() -> None:
    found = [
        Flops(0, False, 30),
        Flops(0, True, 40),
        Flops(FLOPS_RANK, False, 20),
        Flops(FLOPS_RANK, True, 36),
    ]
    assert of_flops(found) == {"flops_kept": pytest.approx(2 / 3), "flops_recomputed": 0.9}


def test_merging_is_charged_by_the_share_of_what_was_gained() -> None:
    losses = {
        "base alone, as trained": 3.0,
        "not merged, as trained": 1.0,
        "deq + D, bfloat16": 1.0,
        "nf4(deq + D)": 1.5,
        "W + D, bfloat16": 1.2,
    }
    routes = [Route("nf4", name, loss) for name, loss in losses.items()]
    expected = {"merge_exact": 0.0, "merge_requantized": 0.25, "merge_original": 0.1}
    assert of_routes(routes) == pytest.approx(expected)


def test_speeds_are_held_against_one_adapter_and_loops_against_each_other() -> None:
    def speed(how: str, adapters: int, tokens: float) -> Speed:
        seconds = adapters / tokens
        return Speed(how, adapters, seconds, tokens, None, Times([seconds] * 3, [seconds] * 3))

    plain = [speed(PEFT, 1, 100), speed("shared", 1, 200), speed("shared", 2, 500), speed("shared", 4, 400)]
    assert of_speeds(Speeds(plain, [speed(PEFT, 1, 50)])) == {"concurrent": 2.0, "nf4_speed": 0.5}
