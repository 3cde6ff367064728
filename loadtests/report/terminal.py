"""A run's figures as a table, and a run that goes on as one line."""

import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.table import Table

from loadtests.drive.fleet import Watch
from loadtests.drive.progress import Progress
from loadtests.drive.records import Run
from loadtests.figures import print_table
from loadtests.measure.measures import Measures
from loadtests.measure.percentiles import Spread

COLUMNS = ("ms", "p50", "p90", "p99", "p99.9", "largest", "of")


def print_measures(run: Run, measures: Measures) -> None:
    """Latencies, then everything that is one number, then tenants if there are several."""
    title = f"{run.name} against {run.target}: {measures.requests:,} requests in {run.duration:g} s"
    print_table(title, COLUMNS, [spread_row(name, spread) for name, spread in spreads(measures).items()])
    print_table("", ("figure", "value"), list(facts(measures).items()))
    if len(measures.fairness.asked) > 1:
        print_table(
            "Tokens while requests were due", ("tenant", "asked", "served", "owed"), tenants(measures)
        )
    if measures.rollout.stages:
        print_table("The alias", STAGE_COLUMNS, stages(measures))
    for warning in warnings(measures):
        print(warning)


def spreads(m: Measures) -> dict[str, Spread]:
    """Those that have samples."""
    found = {
        "first token": m.first_token,
        "first token, cold adapter": m.cold_first_token,
        "first token, warm": m.warm_first_token if m.cold_first_token.count else Spread.of([]),
        "between tokens": m.inter_token,
        "longest gap of an answer": m.longest_gap,
        "whole answer": m.latency,
        "sent late by the driver": m.lateness,
    }
    return {name: spread for name, spread in found.items() if spread.count}


def spread_row(name: str, spread: Spread) -> tuple[str, ...]:
    values = (spread.p50, spread.p90, spread.p99, spread.p999, spread.largest)
    return name, *(milliseconds(value) for value in values), f"{spread.count:,}"


def milliseconds(seconds: float) -> str:
    """An en dash where too few samples stand behind it."""
    if math.isnan(seconds):
        return "–"
    return f"{seconds * 1e3:,.2f}" if seconds < 0.1 else f"{seconds * 1e3:,.0f}"


def facts(m: Measures) -> dict[str, str]:
    o = m.objective
    told = {
        "offered": f"{m.offered_rate:.2f} requests/s",
        "answered": f"{m.request_throughput:.2f} requests/s, {m.token_throughput:,.0f} tokens/s",
        f"good: first token <= {o.first_token_ms:g} ms, then <= {o.per_token_ms:g} ms": (
            f"{m.goodput:.2f} requests/s, {m.good_share:.2%} (objective: {o.share:.2%})"
        ),
        "outcomes": counts(m.outcomes),
        "at once, at most": f"{m.most_in_flight:,}",
        "not ended when the last was due": f"{m.backlog:,}",
        "the driver itself": f"{m.driver_cores:.2f} of a core",
    }
    if not math.isnan(m.cold_share):
        told["found their adapter cold"] = f"{m.cold_share:.2%}"
    if m.uploads:
        told["uploads"] = counts(m.uploads)
    if len(m.fairness.asked) > 1:
        told["fairness"] = f"furthest from owed {m.fairness.deviation:.2%}, Jain {m.fairness.jain:.3f}"
    return told


def counts(found: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(found.items()))


def tenants(m: Measures) -> list[tuple[str, ...]]:
    f = m.fairness
    return [(t, f"{f.asked[t]:,}", f"{f.served[t]:,}", f"{f.owed[t]:,.0f}") for t in sorted(f.asked)]


STAGE_COLUMNS = ("from s", "requests", "wanted", "got", "first token p50 ms", "per token p50 ms")


def stages(m: Measures) -> list[tuple[str, ...]]:
    """What each stage of a rollout was to share out, and what it did."""
    return [
        (
            f"{stage.shift.done:.1f}",
            f"{len(stage.records):,}",
            ", ".join(f"{role} {part:.0%}" for role, part in stage.shift.parts.items()),
            ", ".join(f"{role} {stage.part(role):.1%}" for role in stage.shift.parts),
            milliseconds(stage.median(lambda record: record.first_token)),
            milliseconds(stage.median(lambda record: record.per_token)),
        )
        for stage in m.rollout.stages
    ]


def warnings(m: Measures) -> list[str]:
    """What makes the figures less than they seem."""
    found = []
    if not m.is_sound:
        found.append(
            "The driver sent requests late or had no time to spare: these figures hold its own queue as well."
            " More --processes, or another machine."
        )
    if m.broken:
        found.append(f"{m.broken:,} answers had begun and came to no good end.")
    if m.short_answers:
        found.append(f"{m.short_answers:,} answers ended before their length: the work is less than asked.")
    return found


@contextmanager
def live(title: str, total: int) -> Iterator[Watch | None]:
    """What the driver may tell its progress; None where nobody watches."""
    console = Console(stderr=True)
    if not sys.stderr.isatty():
        yield None
        return
    with Live(console=console, refresh_per_second=4, transient=True) as screen:
        yield lambda seconds, progress: screen.update(_line(title, total, seconds, progress))


def _line(title: str, total: int, seconds: float, p: Progress) -> Table:
    columns = ("seconds", "sent", "in flight", "answered", "failed", "tokens/s", "first token ms", "late ms")
    table = Table(*columns, title=title, title_justify="left")
    table.add_row(
        f"{max(seconds, 0):.0f}",
        f"{p.sent:,} of {total:,}",
        f"{p.in_flight:,}",
        f"{p.ok:,}",
        f"{p.failed:,}",
        f"{p.tokens / seconds:,.0f}" if seconds > 0 else "",
        milliseconds(p.mean_first),
        f"{p.worst_late * 1e3:.1f}",
    )
    return table
