"""`lorikeet loadtest plan`: does this load fit that device, and how far off is the estimate?"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from loadtests.drive.records import Run
from loadtests.drive.store import load
from loadtests.figures import finite, print_table
from loadtests.measure.measures import measure
from loadtests.plan.estimate import Estimate, Room, estimate, popularity, room_of
from loadtests.plan.options import PlanOptions
from loadtests.plan.steps import StepTable

# Alike, and nearly all for one.
ALPHAS = (1e-6, 8.0)


def run(options: PlanOptions) -> int:
    """0 if the load fits."""
    table = StepTable.find(options.step, options.model, options.quantization)
    room = room_of(options)
    found = estimate(options, table, room)
    report(options, table, room, found)
    errors = {}
    for file in filter(None, options.measured.split(",")):
        errors[file] = against(options, table, room, load(Path(file)))
    if errors:
        print_errors(errors)
    if options.json:
        figures = {"room": asdict(room), "estimate": asdict(found), "errors": errors}
        Path(options.json).write_text(json.dumps(finite(figures), indent=2) + "\n")
    return 0 if found.fits else 1


def report(options: PlanOptions, table: StepTable, room: Room, found: Estimate) -> None:
    sizes = [
        ("base", _gib(room.base), ""),
        ("adapters", _gib(room.adapter_memory), f"{room.adapters:,} of rank {options.rank} at once"),
        ("workspace", _gib(room.workspace), ""),
        ("KV cache", _gib(room.cache), f"{room.cache_tokens:,} tokens"),
    ]
    print_table(f"{options.memory:g} GiB, {options.model} in {options.quantization}", ("", "GiB", ""), sizes)
    rows: list[Sequence[str]] = [
        ("most requests/s", f"{found.most_rate:.2f}"),
        ("find their adapter not on the device", f"{found.cold:.1%}"),
    ]
    if found.fits:
        rows += [
            ("requests under way", f"{found.running:.1f}"),
            ("between tokens", f"{found.per_token * 1e3:.1f} ms"),
            ("first token", f"{found.first_token * 1e3:.0f} ms"),
        ]
    asked = (
        f"{options.tenants:,} tenants, {options.rate:g} requests/s of {options.prompt:g} + {options.answer:g}"
    )
    print_table(f"{asked} tokens: {'fits' if found.fits else 'DOES NOT FIT'}", ("on average", ""), rows)
    print(f"from the steps of {table.device or 'an unnamed device'}")


def against(options: PlanOptions, table: StepTable, room: Room, run: Run) -> dict[str, dict[str, float]]:
    """What would have been said of that run's load, beside what was measured; error: the part it is off."""
    measures = measure(run)
    count = len(run.records)
    asked = [(record.tenant, record.adapter) for record in run.records if record.adapter]
    same = replace(
        options,
        rate=measures.offered_rate,
        prompt=sum(record.prompt_tokens for record in run.records) / count,
        answer=sum(record.asked_tokens for record in run.records) / count,
        base_share=1 - len(asked) / count,
        tenants=max(1, len(set(asked))),
        alpha=alpha_of(asked),
    )
    found = estimate(same, table, room)
    in_flight = sum(r.latency for r in run.records if r.is_ok) / run.duration
    pairs = {
        "requests under way": (found.running, in_flight),
        "between tokens, s": (found.per_token, measures.inter_token.mean),
        "first token, s": (found.first_token, measures.first_token.mean),
    }
    return {
        name: {"estimate": guess, "measured": truth, "error": guess / truth - 1 if truth else math.nan}
        for name, (guess, truth) in pairs.items()
    }


def alpha_of(asked: Sequence[object]) -> float:
    """The exponent of the zipf's law under which so many of them are the most frequent one, by halving."""
    counts = Counter(asked)
    top = max(counts.values(), default=1) / max(1, len(asked))
    low, high = ALPHAS
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if popularity(max(1, len(counts)), middle)[0] < top else (low, middle)
    return high


def print_errors(errors: dict[str, dict[str, dict[str, float]]]) -> None:
    rows = [
        (Path(file).stem, name, f"{e['estimate']:.4g}", f"{e['measured']:.4g}", f"{e['error']:+.0%}")
        for file, each in errors.items()
        for name, e in each.items()
    ]
    columns = ("run", "on average", "estimate", "measured", "off by")
    print_table("The estimates of measured runs", columns, rows)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
