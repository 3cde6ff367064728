"""Tables for the terminal, and the one of all claims in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from loadtests.claims.measured import Measured
from loadtests.claims.sweeps import Best, best_of
from loadtests.claims.verdicts import Judged
from loadtests.figures import print_table

COLUMNS = ("claim", "source", "measured here", "figure", "reproduced if", "verdict")


def print_all(measured: Measured, verdicts: Sequence[Judged]) -> None:
    titles = {"Ranks": measured.ranks, "Placement": measured.placement, "Batches": measured.batches}
    for title, found in titles.items():
        _print(
            f"{title}, each at its best rate",
            ("trained", "rank", "rows a step", "rate", "held-out loss", "+-"),
            [_cells(each) for each in best_of(found)],
        )
    kept = [
        (str(f.rank or "full"), "yes" if f.recomputed else "no", f"{f.count / 1e9:.3f}")
        for f in measured.operations
    ]
    _print("Operations of a step", ("rank", "checkpointing", "GFLOP"), kept)
    sizes = [
        (each.size, f"{memory.bits.doubled:.3f}", f"{each.float32 / 1e9:.1f}", f"{each.nf4 / 1e9:.2f}")
        for memory in measured.memory
        for each in memory.held
    ]
    _print("Llama 2, its linears in NF4", ("size", "bits a weight", "float32 GB", "NF4 GB"), sizes)
    for speeds in measured.speed:
        rows = [("float", s) for s in speeds.plain] + [("NF4", s) for s in speeds.nf4]
        cells = [(held, s.how, str(s.adapters), f"{s.tokens_per_second:,.0f}") for held, s in rows]
        _print("Adapters at once", ("base", "how", "adapters", "tokens/s"), cells)
    routes = [(r.trained_on, r.name, f"{r.loss:.4f}") for r in measured.merge]
    _print("Merges", ("trained on", "route", "held-out loss"), routes)
    _print("Published claims", COLUMNS, [_judged(each) for each in verdicts])


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Nothing of what was left out."""
    if rows:
        print_table(title, columns, rows)


def markdown(verdicts: Sequence[Judged]) -> str:
    """One line for each claim."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(_judged(each) for each in verdicts)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _judged(each: Judged) -> tuple[str, ...]:
    claim = each.claim
    return (
        *(claim.text, claim.source, claim.meaning),
        f"{each.value:.3g}",
        str(claim.holds),
        each.verdict.value,
    )


def _cells(each: Best) -> tuple[str, ...]:
    return (
        *(each.subject, str(each.rank or "all"), str(each.batch), f"{each.rate:g}"),
        f"{each.loss:.4f}",
        f"{each.spread:.4f}",
    )
