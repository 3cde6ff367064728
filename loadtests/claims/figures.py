"""From what was measured to the figures that claims are judged by."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.claims.costs import Flops, Memory
from loadtests.claims.learn import Trial
from loadtests.claims.measured import Measured, Speeds
from loadtests.claims.sweeps import Best, best_of, deviations, in_errors
from loadtests.concurrent_config import PEFT
from loadtests.merge_routes import Route

LIVE, ALONE = "not merged, as trained", "base alone, as trained"
# The rank whose operations are compared: the one that recipes start from.
FLOPS_RANK = 8

Figures = dict[str, float]


def figures_of(measured: Measured) -> Figures:
    """Every figure that could be made, by the name that claims call it."""
    return {
        **(of_ranks(best_of(measured.ranks)) if measured.ranks else {}),
        **(of_rates(measured.ranks) if measured.ranks else {}),
        **(of_places(best_of(measured.placement)) if measured.placement else {}),
        **(of_batches(best_of(measured.batches)) if measured.batches else {}),
        **(of_flops(measured.operations) if measured.operations else {}),
        **(of_memory(measured.memory[0]) if measured.memory else {}),
        **(of_routes(measured.merge) if measured.merge else {}),
        **(of_speeds(measured.speed[0]) if measured.speed else {}),
    }


def of_rates(trials: Sequence[Trial]) -> Figures:
    """None where a best rate is the first or last tried, which says nothing of where the best one is."""
    full, *adapters = by_rank(best_of(trials))
    tried = sorted({trial.rate for trial in trials})
    rates = [each.rate for each in adapters]
    if {tried[0], tried[-1]} & {full.rate, *rates}:
        return {}
    return {"rate_spread": max(rates) / min(rates), "rate_ratio": _middle(rates) / full.rate}


def of_ranks(found: Sequence[Best]) -> Figures:
    full, *adapters = by_rank(found)
    return {
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
    names = {"flops_kept": False, "flops_recomputed": True}
    return {name: counts[FLOPS_RANK, again] / counts[0, again] for name, again in names.items()}


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


def of_speeds(speeds: Speeds) -> Figures:
    together = [each for each in speeds.plain if each.how != PEFT]
    halves = (speeds.nf4, speeds.plain)
    loops = [next(each.tokens_per_second for each in half if each.how == PEFT) for half in halves]
    return {
        "concurrent": together[-1].over(together[0]).median,
        "nf4_speed": loops[0] / loops[1],
    }


def by_rank(found: Sequence[Best]) -> list[Best]:
    """Full fine-tuning, whose rank is 0, first."""
    return sorted(found, key=lambda each: each.rank)


def _middle(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
