"""How a run tells its caller where it stands; the caller decides whether anybody sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress


@dataclass(frozen=True, slots=True)
class Progress:
    """One sign of life. Losses are nats per loss token; `seconds` counts from the start of `phase`."""

    phase: str
    step: int
    num_steps: int
    seconds: float = 0.0
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None


Report = Callable[[Progress], None]


@contextmanager
def bars(console: Console) -> Iterator[Report]:
    """Draws one bar per phase on `console` for as long as the context is open."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"))
    with RichProgress(*columns, TimeElapsedColumn(), console=console) as drawing:
        tasks: dict[str, TaskID] = {}

        def report(progress: Progress) -> None:
            if progress.phase not in tasks:
                tasks[progress.phase] = drawing.add_task(progress.phase, note="")
            drawing.update(
                tasks[progress.phase],
                total=progress.num_steps,
                completed=progress.step,
                note=_note(progress),
            )

        yield report


def _note(progress: Progress) -> str:
    losses = {"loss": progress.loss, "eval": progress.eval_loss}
    return "  ".join(f"{name} {value:.3f}" for name, value in losses.items() if value is not None)
