"""Tables, JSON and progress bars."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from lorikeet.lifecycle import AdapterCard, AdapterStatus
    from lorikeet.types import AdapterVersion

# A file or a pipe has no width to fit into.
_UNBOUNDED = 1000


def output() -> "Console":
    """Standard output, as wide as the terminal; never cut off when it is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else _UNBOUNDED, highlight=False)


def print_json(value: Any) -> None:
    """A record of the client, a list of them, or a dictionary."""
    if isinstance(value, dict):
        records: Any = value
    else:
        records = [_record(item) for item in value] if isinstance(value, list) else _record(value)
    print(json.dumps(records, ensure_ascii=False, indent=2, default=datetime.isoformat))


def print_version(version: "AdapterVersion") -> None:
    """One `key  value` line for each fact, the id first."""
    for key, value in _record(version).items():
        shown = ", ".join(value) if isinstance(value, (list, tuple)) else value
        print(f"{key:<15} {'-' if shown in ('', None) else shown}")


def print_card(card: "AdapterCard") -> None:
    """The version's facts, the trainer's facts, a table of its metrics, and the model card."""
    print_version(card.version)
    metrics = card.training.get("metrics", {})
    for key, value in card.training.items():
        if key != "metrics":
            print(f"{key:<15} {value if isinstance(value, str) else json.dumps(value)}")
    if isinstance(metrics, dict) and metrics:
        print_table(("metric", "value"), [(name, _metric(value)) for name, value in metrics.items()])
    if card.readme:
        _print_markdown(card.readme)


def print_status(status: "AdapterStatus") -> None:
    """One line."""
    what = status.version.id if status.version else f"{status.received} of {status.total} bytes"
    running = f", {status.running} running" if status.running else ""
    print(f"{status.state:<10} {what}{running}")
    for reason in status.reasons:
        print(f"  {reason}")


def print_versions(versions: Sequence["AdapterVersion"]) -> None:
    """A table with one row for each version."""
    columns = ("adapter", "rank", "size", "targets", "created", "on device", "digest")
    print_table(columns, [_row(version) for version in versions])


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """A table of plain text; brackets in it are brackets, not markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # Not the table's own title, which is folded to the table's width.
    if title:
        output().print(Text(title))
    output().print(table)


@contextmanager
def byte_progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error, told bytes done and bytes in all; it leaves nothing behind."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def step_progress(text: str) -> Iterator[Callable[[int, int], None]]:
    """The same, told steps done and steps in all."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_markdown(text: str) -> None:
    from rich.markdown import Markdown

    # The block of fields between dashes at the top of a model card is no Markdown.
    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    output().print(Markdown(text, hyperlinks=False))


def _metric(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _record(item: Any) -> dict[str, Any]:
    fields = dataclasses.asdict(item)
    return {"id": item.id, **fields} if hasattr(item, "id") else fields


def card_record(card: "AdapterCard") -> dict[str, Any]:
    """The version's facts with what the trainer said beside them."""
    return {**_record(card.version), "readme": card.readme, "training": card.training}


def _row(version: "AdapterVersion") -> tuple[str, ...]:
    created = version.create_time.strftime("%Y-%m-%d %H:%M")
    resident = "yes" if version.resident else "no"
    targets = ", ".join(version.targets)
    rank, size, digest = str(version.rank), f"{version.size / 2**20:.1f} MiB", version.digest[:12]
    name = f"{version.id} (other base)" if version.base_mismatches else version.id
    return (name, rank, size, targets, created, resident, digest)
