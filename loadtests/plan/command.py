"""`lorikeet loadtest plan`: does this load fit that device, and how far off is the estimate?"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from loadtests.drive.records import Run
from loadtests.drive.store import load
from loadtests.figures import finite, print_table
from loadtests.measure.measures import measure
from loadtests.plan.estimate import Estimate, Room, estimate, room_of
from loadtests.plan.options import PlanOptions
from loadtests.plan.steps import StepTable


def run(options: PlanOptions) -> int:
    """0 if the load fits."""
    table, room = StepTable.read(Path(options.step), options.quantization), room_of(options)
    found = estimate(options, table, room)
    report(options, room, found)
    errors = {}
    if options.measured:
        errors = against(options, table, room, load(Path(options.measured)))
        print_errors(errors)
    if options.json:
        figures = {"room": asdict(room), "estimate": asdict(found), "errors": errors}
        Path(options.json).write_text(json.dumps(finite(figures), indent=2) + "\n")
    return 0 if found.fits else 1


def report(options: PlanOptions, room: Room, found: Estimate) -> None:
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


def against(options: PlanOptions, table: StepTable, room: Room, run: Run) -> dict[str, dict[str, float]]:
    """What would have been said of that run's load, beside what was measured; error: the part it is off."""
    measures = measure(run)
    count = len(run.records)
    same = replace(
        options,
        rate=measures.offered_rate,
        prompt=sum(record.prompt_tokens for record in run.records) / count,
        answer=sum(record.asked_tokens for record in run.records) / count,
        tenants=max(1, len({record.adapter for record in run.records if record.adapter})),
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


def print_errors(errors: dict[str, dict[str, float]]) -> None:
    rows = [
        (name, f"{e['estimate']:.4g}", f"{e['measured']:.4g}", f"{e['error']:+.0%}")
        for name, e in errors.items()
    ]
    print_table("The estimate of the measured run", ("on average", "estimate", "measured", "off by"), rows)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2f}"
