"""Measures as flat figures by name: for bars, JSON and comparisons. Milliseconds where the name says so."""

from functools import cache

from loadtests.drive.records import Record, Run
from loadtests.measure.measures import Measures, measure
from loadtests.measure.percentiles import Spread

QUANTILES = ("p50", "p90", "p99", "p999", "largest", "mean")


def spreads_of(m: Measures) -> dict[str, Spread]:
    return {
        "first_token": m.first_token,
        "cold_first_token": m.cold_first_token,
        "warm_first_token": m.warm_first_token,
        "inter_token": m.inter_token,
        "longest_gap": m.longest_gap,
        "latency": m.latency,
        "lateness": m.lateness,
    }


def figures_of(m: Measures) -> dict[str, float]:
    """Such as `first_token_p99_ms`; nan where nothing, or too little, stands behind a figure."""
    figures = {
        f"{name}_{quantile}_ms": getattr(spread, quantile) * 1e3
        for name, spread in spreads_of(m).items()
        for quantile in QUANTILES
    }
    figures |= {f"drift_{name}": value for name, value in m.drift.items()}
    return figures | {
        "requests": float(m.requests),
        "offered_rate": m.offered_rate,
        "request_throughput": m.request_throughput,
        "token_throughput": m.token_throughput,
        "goodput": m.goodput,
        "good_share": m.good_share,
        "failed": float(m.failed),
        "failed_share": m.failed / m.requests,
        "unfinished": float(m.outcomes.get("unfinished", 0)),
        "cold_share": m.cold_share,
        "adapter_loads": m.adapter_loads,
        "driver_cores": m.driver_cores,
        "broken": float(m.broken),
        "short_answers": float(m.short_answers),
        "most_in_flight": float(m.most_in_flight),
        "backlog": float(m.backlog),
        "fairness_deviation": m.fairness.deviation,
        "fairness_jain": m.fairness.jain,
        "rollout_worst_part": m.rollout.worst_part,
        "rollout_surprise": m.rollout.surprise,
        "rollout_split_sessions": m.rollout.split,
        "rollout_returns": m.rollout.returns,
        "rollout_first_token_step": m.rollout.first_token_step,
        "rollout_per_token_step": m.rollout.per_token_step,
        "failed_uploads": float(sum(m.uploads.values()) - m.uploads.get("ok", 0)),
        "uploads": float(sum(m.uploads.values())),
    }


@cache
def known_figures() -> frozenset[str]:
    """Names of all figures, and of the ratios to a baseline."""
    nothing = Run("", "", 0, 1.0, 0.0, [Record(0, "", "", 1, 1, 0.0)])
    names = figures_of(measure(nothing)).keys()
    return frozenset(names) | {ratio_name(name) for name in names if is_time(name)}


def is_time(name: str) -> bool:
    return name.endswith("_ms")


def ratio_name(name: str) -> str:
    return f"{name}_ratio"


def ratios(figures: dict[str, float], baseline: dict[str, float]) -> dict[str, float]:
    """Of all that are times, to the baseline's."""
    return {
        ratio_name(name): value / baseline[name] if baseline[name] else float("nan")
        for name, value in figures.items()
        if is_time(name)
    }
