"""From what was measured to the figures that claims are judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadtests.claims.costs import Flops, Memory
from loadtests.claims.learn import Trial
from loadtests.claims.sweeps import Best, deviations, in_errors
from loadtests.concurrent import PEFT, Speed
from loadtests.merge_routes import Route

LIVE, ALONE = "not merged, as trained", "base alone, as trained"
# The rank whose operations are compared: the one that recipes start from.
FLOPS_RANK = 8

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """All of a run; a list is empty where its part was left out. trials: the ranks' runs at every rate."""

    trials: list[Trial]
    ranks: list[Best]
    places: list[Best]
    batches: list[Best]
    flops: list[Flops]
    memory: list[Memory]
    routes: list[Route]
    speeds: list[Speed]
    speeds_nf4: list[Speed]


def figures_of(measured: Measured) -> Figures:
    """Every figure that could be made, by the name that claims call it."""
    return {
        **(of_ranks(measured.ranks) if measured.ranks else {}),
        **(of_places(measured.places) if measured.places else {}),
        **(of_batches(measured.batches) if measured.batches else {}),
        **(of_flops(measured.flops) if measured.flops else {}),
        **(of_memory(measured.memory[0]) if measured.memory else {}),
        **(of_routes(measured.routes) if measured.routes else {}),
        **(of_speeds(measured.speeds, measured.speeds_nf4) if measured.speeds else {}),
    }


def of_ranks(found: Sequence[Best]) -> Figures:
    full, *adapters = found
    rates = [each.rate for each in adapters]
    return {
        "rate_spread": max(rates) / min(rates),
        "rate_ratio": _middle(rates) / full.rate,
        "regret_highest": adapters[-1].loss / full.loss - 1,
        "rank_matters": deviations(adapters[0], adapters[-1]),
    }


def of_places(found: Sequence[Best]) -> Figures:
    by_name = {each.subject: each for each in found}
    mlp, attention, pair = by_name["MLP"], by_name["attention"], by_name["q and v"]
    return {
        "attention_behind_mlp": deviations(attention, mlp),
        "all_behind_mlp": deviations(by_name["all linears"], mlp),
        "mlp_behind_q_and_v": deviations(mlp, pair),
    }


def of_batches(found: Sequence[Best]) -> Figures:
    """How much more LoRA loses to full fine-tuning at the largest batch than at the smallest."""
    full = sorted((each for each in found if not each.rank), key=lambda each: each.batch)
    lora = sorted((each for each in found if each.rank), key=lambda each: each.batch)
    small, large = (
        [low - high for low, high in zip(lora[end].losses, full[end].losses, strict=True)] for end in (0, -1)
    )
    return {"batch_penalty": in_errors([more - less for more, less in zip(large, small, strict=True)])}


def of_flops(found: Sequence[Flops]) -> Figures:
    counts = {(each.rank, each.recomputed): each.count for each in found}
    full = counts[0, False]
    return {
        "flops_kept": counts[FLOPS_RANK, False] / full,
        "flops_recomputed": counts[FLOPS_RANK, True] / full,
    }


def of_memory(memory: Memory) -> Figures:
    sizes = {f"float32_{each.size}": each.float32 / 1e9 for each in memory.held}
    sizes |= {f"nf4_{each.size}": each.nf4 / 1e9 for each in memory.held}
    saved = memory.bits.single - memory.bits.doubled
    return {**sizes, "bits_saved": saved, "trained_share": memory.trained_share}


def of_routes(routes: Sequence[Route]) -> Figures:
    """Shares of what the adapter gained over its base that merging gives back."""
    loss = {route.name: route.loss for route in routes if route.trained_on == "nf4"}
    gain = loss[ALONE] - loss[LIVE]
    names = {"exact": "deq + D, bfloat16", "requantized": "nf4(deq + D)", "original": "W + D, bfloat16"}
    return {f"merge_{name}": (loss[route] - loss[LIVE]) / gain for name, route in names.items()}


def of_speeds(plain: Sequence[Speed], nf4: Sequence[Speed]) -> Figures:
    together = [each for each in plain if each.how != PEFT]
    loops = [next(each.tokens_per_second for each in some if each.how == PEFT) for some in (nf4, plain)]
    alone = together[0].tokens_per_second
    return {
        "concurrent": max(each.tokens_per_second for each in together) / alone,
        "nf4_speed": loops[0] / loops[1],
    }


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
