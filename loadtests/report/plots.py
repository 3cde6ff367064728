"""Plots in one style, and those of a run."""

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from loadtests.drive.records import Record, Run
from loadtests.measure.measures import in_flight_at, inter_token

# Those of Okabe and Ito, which most eyes tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lorikeet",
    # Names are names, dollar signs included.
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
}
# Rows of the residency plot at most; the busiest adapters are shown.
MOST_ROWS = 40
_BINS = 60

Draw = Callable[[Axes], None]


def render(draw: Draw, height: float = 2.8) -> str:
    """One plot as SVG; what is the same is the same text."""
    out = io.BytesIO()
    _save(draw, height, out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue().decode()
    return text[text.index("<svg") :]


def write_png(path: Path, draw: Draw, height: float = 2.8) -> None:
    """The same as a file."""
    with path.open("wb") as out:
        _save(draw, height, out, format="png", dpi=150)


def _save(draw: Draw, height: float, out: BinaryIO, **settings: Any) -> None:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.6, height), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(out, **settings)


def latency_over_time(runs: Sequence[Run]) -> str:
    def draw(axes: Axes) -> None:
        for run, color in zip(runs, COLORS, strict=False):
            found = [(r.scheduled, r.waited * 1e3) for r in run.records if r.is_ok or r.is_cut_off]
            axes.scatter(*_columns(found), s=12, alpha=0.5, color=color, linewidths=0, rasterized=True)
            axes.plot(*_medians(found), color=color, label=f"{_label(run, runs)}median")
            failed = [r.scheduled for r in run.records if not r.is_ok]
            axes.plot(
                failed, [0.98] * len(failed), "x", color="#b00020", transform=axes.get_xaxis_transform()
            )
        axes.set(xlabel="when the request was due, s", ylabel="first token, ms", yscale="log", xlim=(0, None))
        logarithmic(axes.yaxis)
        legend(axes)

    return render(draw)


def distributions(runs: Sequence[Run]) -> str:
    """Of first tokens, of the times between tokens and of whole answers."""
    kinds: dict[str, Callable[[list[Record]], Sequence[float]]] = {
        "first token": lambda records: [r.first_token for r in records],
        "between tokens": lambda records: inter_token(records).tolist(),
        "whole answer": lambda records: [r.latency for r in records],
    }

    def draw(axes: Axes) -> None:
        for run, style in zip(runs, ("-", "--"), strict=False):
            answered = [record for record in run.records if record.is_ok]
            for (name, values), color in zip(kinds.items(), COLORS, strict=False):
                found = np.sort(np.asarray(values(answered))) * 1e3
                # A thousand points draw the same line as a million.
                parts = np.linspace(0, 1, 1000)
                if len(found):
                    places = np.quantile(found, parts)
                    axes.plot(places, parts, style, color=color, label=f"{_label(run, runs)}{name}")
        axes.set(xlabel="ms", ylabel="part of all", xscale="log", ylim=(0, 1.01))
        logarithmic(axes.xaxis)
        legend(axes)

    return render(draw)


def load_over_time(runs: Sequence[Run]) -> str:
    def draw(axes: Axes) -> None:
        for run, color in zip(runs, COLORS, strict=False):
            times, counts = in_flight_at(run.records)
            axes.step(times, counts, where="post", color=color, label=f"{_label(run, runs)}due and not ended")
        axes.set(xlabel="s", ylabel="requests", xlim=(0, None), ylim=(0, None))
        legend(axes)

    return render(draw)


def tenants_over_time(run: Run) -> str:
    """Tokens that each tenant has been given so far."""

    def draw(axes: Axes) -> None:
        for number, tenant in enumerate(sorted({record.tenant for record in run.records})):
            own = [r for r in run.records if r.tenant == tenant]
            at = np.concatenate([np.zeros(0), *(r.times for r in own)])
            counts = np.concatenate([np.zeros(0), *(r.counts for r in own)])
            order = np.argsort(at, kind="stable")
            axes.plot(at[order], np.cumsum(counts[order]), color=COLORS[number % len(COLORS)], label=tenant)
        axes.axvline(run.duration, color="#999999", linestyle=":")
        axes.set(
            xlabel="s (dotted: the last request was due)",
            ylabel="tokens so far",
            xlim=(0, None),
            ylim=(0, None),
        )
        legend(axes)

    return render(draw)


def residency(run: Run) -> str:
    """Which adapters were on the device when the server's metrics were looked at."""
    names = {record.digest: record.adapter for record in run.records if record.digest}
    asked = [record.digest for record in run.records]
    seen = {digest for sample in run.metrics for digest in sample.resident}
    rows = sorted(seen, key=lambda digest: (-asked.count(digest), digest))[:MOST_ROWS]
    looks = [sample.at for sample in run.metrics]
    ends = [*looks[1:], looks[-1] + 0.5] if looks else []

    def draw(axes: Axes) -> None:
        for row, digest in enumerate(rows):
            there = [
                (at, end - at)
                for sample, at, end in zip(run.metrics, looks, ends, strict=True)
                if digest in sample.resident
            ]
            axes.broken_barh(there, (row - 0.4, 0.8), color=COLORS[0])
        axes.set_yticks(range(len(rows)), [names.get(digest, digest[:12]) for digest in rows])
        axes.set(xlabel="s", xlim=(0, None), ylim=(len(rows) - 0.5, -0.5))

    return render(draw, height=max(1.2, 0.7 + 0.2 * len(rows)))


def legend(axes: Axes) -> None:
    """Above the plot, where it hides nothing."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2)


def logarithmic(axis: Axis) -> None:
    """Plain numbers, since names are no formulas here; minor ones only where there is room."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _label(run: Run, runs: Sequence[Run]) -> str:
    return f"{'AB'[list(runs).index(run)]}, " if len(runs) > 1 else ""


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]


def _medians(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    """By stretches of time; a gap where nothing was due."""
    if not pairs:
        return [], []
    at, values = np.asarray(pairs).T
    edges = np.linspace(0, at.max() + 1e-9, min(_BINS, max(2, len(at) // 20)) + 1)
    middles, found = (edges[:-1] + edges[1:]) / 2, np.digitize(at, edges) - 1
    medians = [
        float(np.median(values[found == n])) if (found == n).any() else math.nan for n in range(len(middles))
    ]
    return middles.tolist(), medians
