"""`lorikeet loadtest selftest`: how far the driver's own time stands in its figures.

Every percentile must be what the server's book says, by 2 % or a millisecond.
"""

import json
from pathlib import Path

import numpy as np

from loadtests.figures import finite, print_table
from loadtests.measure.percentiles import QUANTILES
from loadtests.overhead import (
    GOAL_SECONDS,
    GOAL_TOKENS,
    OVERLOAD,
    Agreement,
    Overhead,
    Queueing,
    SelfTestOptions,
    accuracy,
    overloaded,
)
from loadtests.report.terminal import milliseconds

# Of a run in which the driver had no core: above it, what is measured is the machine.
QUIET_PART = 0.02


def run(options: SelfTestOptions) -> int:
    """0 if every percentile is close enough."""
    agreements, overhead = accuracy(options)
    queueing = overloaded(options)
    report(options, agreements, overhead, queueing)
    if options.json:
        figures = as_json(agreements, overhead, queueing)
        Path(options.json).write_text(json.dumps(finite(figures), indent=2) + "\n")
    return 0 if all(agreement.is_close for agreement in agreements) else 1


def report(
    options: SelfTestOptions, agreements: list[Agreement], overhead: Overhead, queueing: Queueing
) -> None:
    title = f"{options.protocol}, {options.rate:g} requests/s of {options.tokens} tokens: {{}}"
    print_table(
        title.format("the driver against the server's book"),
        ("ms", "server", "driver", "driver - server", ""),
        [_row(agreement) for agreement in agreements],
    )
    times = {
        "server to record": overhead.received,
        "sent late": overhead.sent_late,
        "not the driver's: server after its script": overhead.server_late,
    }
    rows = [
        (name, *(milliseconds(float(np.quantile(found, q))) for q in QUANTILES))
        for name, found in times.items()
    ]
    print_table("The driver's own time", ("ms", "p50", "p90", "p99", "p99.9"), rows)
    speeds = [("streamed", f"{overhead.tokens_per_second:,.0f}")]
    speeds += [("by a core of the driver, if it did nothing else", f"{overhead.tokens_per_core:,.0f}")]
    speeds += [("microseconds of a core for a token", f"{1e6 / overhead.tokens_per_core:.0f}")]
    print_table("Tokens a second", ("", "tokens/s"), speeds)
    print(_verdict(overhead))
    loops = {"open loop": queueing.open_loop, "closed loop": queueing.closed_loop}
    print_table(
        f"First token of a server that is asked for {OVERLOAD:g} times what it can do",
        ("ms", "p50", "largest"),
        [(name, *map(milliseconds, found)) for name, found in loops.items()],
    )


def _verdict(overhead: Overhead) -> str:
    told = (
        f"server to record at p99: {overhead.p99 * 1e3:.2f} ms, goal {GOAL_SECONDS * 1e3:g} ms: "
        f"{_word(overhead.p99 <= GOAL_SECONDS)}\n"
        f"tokens/s by a core: {overhead.tokens_per_core:,.0f}, goal {GOAL_TOKENS:,}: "
        f"{_word(overhead.tokens_per_core >= GOAL_TOKENS)}"
    )
    if overhead.waited_part > QUIET_PART:
        told += f"\nThe driver had no core for {overhead.waited_part:.0%} of the time: use a quiet machine."
    return told


def _word(is_met: bool) -> str:
    return "pass" if is_met else "FAIL"


def _row(agreement: Agreement) -> tuple[str, ...]:
    values = (agreement.truth, agreement.measured, agreement.measured - agreement.truth)
    return agreement.figure, *map(milliseconds, values), _word(agreement.is_close)


def as_json(agreements: list[Agreement], overhead: Overhead, queueing: Queueing) -> dict[str, object]:
    return {
        "percentiles": {a.figure: {"server": a.truth, "driver": a.measured} for a in agreements},
        "received_p50_ms": float(np.quantile(overhead.received, 0.5)) * 1e3,
        "received_p99_ms": overhead.p99 * 1e3,
        "server_late_p99_ms": float(np.quantile(overhead.server_late, 0.99)) * 1e3,
        "sent_late_p99_ms": float(np.quantile(overhead.sent_late, 0.99)) * 1e3,
        "waited_part": overhead.waited_part,
        "tokens_per_second": overhead.tokens_per_second,
        "tokens_per_core": overhead.tokens_per_core,
        "microseconds_per_token": 1e6 / overhead.tokens_per_core,
        "open_loop_ms": [seconds * 1e3 for seconds in queueing.open_loop],
        "closed_loop_ms": [seconds * 1e3 for seconds in queueing.closed_loop],
    }
