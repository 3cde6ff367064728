"""A run, or two side by side, as one HTML file that needs nothing else."""

import time
from collections.abc import Sequence
from html import escape
from importlib import resources
from importlib.util import find_spec

from loadtests.drive.records import Run
from loadtests.measure.compare import Change
from loadtests.measure.measures import Measures
from loadtests.report.terminal import (
    COLUMNS,
    STAGE_COLUMNS,
    facts,
    milliseconds,
    spread_row,
    spreads,
    stages,
    tenants,
    warnings,
)

Row = Sequence[str]

NO_PLOTS = "matplotlib is not installed (pip install 'lorikeet[loadtests]'): pages have no plots."


def has_plots() -> bool:
    return find_spec("matplotlib") is not None


def run_page(run: Run, measures: Measures, bars: Sequence[Row] = ()) -> str:
    """bars: figure, value, goal and verdict of each."""
    warned = "".join(f'<p class="warning">{escape(text)}</p>' for text in warnings(measures))
    latencies = [spread_row(name, spread) for name, spread in spreads(measures).items()]
    parts = [
        warned,
        _table("Bars", ("figure", "value", "goal", ""), bars),
        _table("Latency", COLUMNS, latencies),
        _table("Load", ("", ""), list(facts(measures).items())),
        _table("The alias", STAGE_COLUMNS, stages(measures)),
    ]
    if len(measures.fairness.asked) > 1:
        parts.append(_table("Tenants", ("tenant", "asked", "served", "owed"), tenants(measures)))
    return _page(run.name, _subtitle(run, measures), parts + _plots_of_both([run]) + _plots_of_one(run))


def summary_page(title: str, subtitle: str, columns: Row, rows: Sequence[Row], links: Sequence[str]) -> str:
    """rows: of which the first column leads to the page beside this one that is named in links, if one is."""
    table = _table(title, columns, rows)
    for row, link in zip(rows, links, strict=True):
        if link:
            table = table.replace(
                f"<td>{escape(row[0])}</td>", f'<td><a href="{link}">{escape(row[0])}</a></td>'
            )
    return _page(title, subtitle, [table])


def comparison_page(
    before: Run, after: Run, measures: tuple[Measures, Measures], changes: list[Change]
) -> str:
    """A is before, B is after."""
    both, names = (before, after), [dict(facts(each)) for each in measures]
    rows = [(name, value, names[1].get(name, "")) for name, value in names[0].items()]
    parts = [
        _table("Verdicts", CHANGE_COLUMNS, [change_row(change) for change in changes]),
        _table("Load", ("", "A", "B"), rows),
        *_plots_of_both(both),
    ]
    subtitles = [f"{letter}: {_subtitle(r, m)}" for letter, r, m in zip("AB", both, measures, strict=True)]
    return _page(f"{before.name}, twice", "\n".join(subtitles), parts)


def _plots_of_both(runs: Sequence[Run]) -> list[str]:
    """Of one run, or of two in the same plots; a sentence where there are none."""
    if not has_plots():
        return [f'<p class="warning">{escape(NO_PLOTS)}</p>']
    # matplotlib takes a second to come, and may be missing.
    from loadtests.report import plots

    return [
        _plot("First token over time", plots.latency_over_time(runs)),
        _plot("Distributions", plots.distributions(runs)),
        _plot("In flight", plots.load_over_time(runs)),
    ]


def _plots_of_one(run: Run) -> list[str]:
    if not has_plots():
        return []
    from loadtests.report import plots

    parts = [_plot("Tokens by tenant", plots.tenants_over_time(run))]
    if any(sample.resident for sample in run.metrics):
        parts.append(_plot("Adapters on the device", plots.residency(run)))
    return parts


CHANGE_COLUMNS = ("figure", "A", "B", "B over A", "99 of 100 draws", "")


def change_row(change: Change) -> Row:
    is_part = change.more_is_better
    values = [f"{v:.2%}" if is_part else f"{milliseconds(v)} ms" for v in (change.before, change.after)]
    interval = f"{change.low:.3f} to {change.high:.3f}"
    return change.figure, *values, f"{change.ratio:.3f}", interval, change.verdict


def _subtitle(run: Run, measures: Measures) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(run.started_at))
    return f"{run.target}, {began} UTC, {measures.requests:,} requests in {run.duration:g} s, seed {run.seed}"


def _page(title: str, subtitle: str, parts: Sequence[str]) -> str:
    style = resources.files("loadtests.report").joinpath("page.css").read_text()
    lines = "".join(f"<p>{escape(line)}</p>" for line in subtitle.splitlines())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{style}</style></head>'
        f"<body><main><h1>{escape(title)}</h1><header>{lines}</header>{''.join(parts)}</main></body></html>\n"
    )


def _table(title: str, columns: Row, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<section><h2>{escape(title)}</h2>{table}</section>"


def _cell(text: str) -> str:
    kind = f' class="{text.lower()}"' if text in ("pass", "FAIL", "better", "worse", "same") else ""
    return f"<td{kind}>{escape(text)}</td>"


def _plot(title: str, svg: str) -> str:
    return f"<section><h2>{escape(title)}</h2><figure>{svg}</figure></section>"
